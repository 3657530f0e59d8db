// Group normalisation of bf16 numbers, times scale, plus shift, then SiLU; forward and backward.
// Tensors: x, y and their gradients bf16 [n, positions, c]; scale, shift, a, b float32 [n, c]; mean, rstd [n, groups].
// Statistics and arithmetic are float32; an image is computed by one thread, so the number of threads changes no bit.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

inline float wide(uint16_t bits) {
    uint32_t word = uint32_t(bits) << 16;
    float number;
    std::memcpy(&number, &word, 4);
    return number;
}

inline uint16_t narrow(float number) {  // to the nearest, halves to even; NaN stays NaN
    uint32_t word;
    std::memcpy(&word, &number, 4);
    uint32_t rounded = (word + 0x7fff + ((word >> 16) & 1)) >> 16;
    return uint16_t(number != number ? 0x7fc0 : rounded);
}

inline float sigmoid(float y) {
    float x = -y;
    x = x > 87.0f ? 87.0f : x;
    x = x < -87.0f ? -87.0f : x;
    const float shifted = x * 1.44269504f + 12582912.0f;  // its low bits are round(x / ln 2)
    const float k = shifted - 12582912.0f;
    const float r = (x - k * 0.693359375f) + k * 2.12194440e-4f;
    float p = 1.3981999507e-3f;  // exp(r) by the polynomial of Cephes' expf
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 0.5f;
    p = p * r * r + r + 1.0f;
    uint32_t bits;
    std::memcpy(&bits, &shifted, 4);
    bits = (bits - 0x4b400000u + 127u) << 23;
    float power;
    std::memcpy(&power, &bits, 4);
    return 1.0f / (1.0f + p * power);
}

}  // namespace

extern "C" void forward(const uint16_t* x, const float* scale, const float* shift, uint16_t* y, float* a, float* b,
                        float* mean, float* rstd, int64_t n, int64_t positions, int64_t c, int64_t groups, float eps,
                        int silu) {
    const int64_t each = c / groups;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) {
        const uint16_t* from = x + i * positions * c;
        uint16_t* to = y + i * positions * c;
        std::vector<float> sums(c), squares(c), centres(c);
        float *sum = sums.data(), *square = squares.data(), *centre = centres.data(), *a_i = a + i * c, *b_i = b + i * c;
        // A value of the group is subtracted first, or a mean far above the deviation would leave no digit of the variance.
        if (positions)
            for (int64_t k = 0; k < c; k++) centre[k] = wide(from[k / each * each]);
        for (int64_t p = 0; p < positions; p++)
#pragma omp simd
            for (int64_t k = 0; k < c; k++) {
                const float v = wide(from[p * c + k]) - centre[k];
                sum[k] += v;
                square[k] += v * v;
            }
        for (int64_t g = 0; g < groups; g++) {
            double s = 0, q = 0;
            for (int64_t k = g * each; k < (g + 1) * each; k++) s += sum[k], q += square[k];
            const double above = s / (positions * each), m = above + centre[g * each];
            const double variance = q / (positions * each) - above * above;
            const float r = float(1 / std::sqrt((variance < 0 ? 0 : variance) + eps));
            mean[i * groups + g] = float(m), rstd[i * groups + g] = r;
            for (int64_t k = g * each; k < (g + 1) * each; k++) {
                a_i[k] = r * scale[i * c + k];
                b_i[k] = shift[i * c + k] - float(m) * a_i[k];
            }
        }
        for (int64_t p = 0; p < positions; p++)
#pragma omp simd
            for (int64_t k = 0; k < c; k++) {
                const float v = wide(from[p * c + k]) * a_i[k] + b_i[k];
                to[p * c + k] = narrow(silu ? v * sigmoid(v) : v);
            }
    }
}

extern "C" void backward(const uint16_t* gradient, const uint16_t* x, const float* scale, const float* a,
                         const float* b, const float* mean, const float* rstd, uint16_t* dx, float* d_scale,
                         float* d_shift, int64_t n, int64_t positions, int64_t c, int64_t groups, int silu) {
    const int64_t each = c / groups;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) {
        const uint16_t *from = x + i * positions * c, *dy = gradient + i * positions * c;
        uint16_t* to = dx + i * positions * c;
        const float *a_i = a + i * c, *b_i = b + i * c, *scale_i = scale + i * c;
        std::vector<float> sums(c), products(c), factors(c), rests(c), means(c);
        float *sum = sums.data(), *product = products.data(), *factor = factors.data(), *rest = rests.data();
        for (int64_t k = 0; k < c; k++) means[k] = mean[i * groups + k / each];
        const float* m_i = means.data();
        for (int64_t p = 0; p < positions; p++)
#pragma omp simd
            for (int64_t k = 0; k < c; k++) {
                const float v = wide(from[p * c + k]);
                float d = wide(dy[p * c + k]);
                if (silu) {
                    const float u = v * a_i[k] + b_i[k], s = sigmoid(u);
                    d *= s * (u * (1 - s) + 1);
                }
                to[p * c + k] = narrow(d);  // the gradient before SiLU, read again below
                sum[k] += d;
                product[k] += d * (v - m_i[k]);
            }
        for (int64_t g = 0; g < groups; g++) {
            const float m = mean[i * groups + g], r = rstd[i * groups + g];
            double s = 0, q = 0;
            for (int64_t k = g * each; k < (g + 1) * each; k++) {
                d_shift[i * c + k] = sum[k];
                d_scale[i * c + k] = product[k] * r;  // sum of dy x_hat
                s += sum[k] * scale_i[k], q += d_scale[i * c + k] * scale_i[k];
            }
            // dx = rstd (scale dy - mean(scale dy) - x_hat mean(scale dy x_hat)), as a dy + factor x + rest.
            for (int64_t k = g * each; k < (g + 1) * each; k++) {
                factor[k] = -float(q / (positions * each)) * r * r;
                rest[k] = -float(s / (positions * each)) * r - factor[k] * m;
            }
        }
        for (int64_t p = 0; p < positions; p++)
#pragma omp simd
            for (int64_t k = 0; k < c; k++)
                to[p * c + k] = narrow(wide(to[p * c + k]) * a_i[k] + (wide(from[p * c + k]) * factor[k] + rest[k]));
    }
}
