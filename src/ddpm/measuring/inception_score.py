"""Inception score: how sure a classifier is of each image, and how evenly the images cover the classes."""

from ddpm.measuring.features.extractor import Described
from ddpm.measuring.measured import Measured, from_influences
from ddpm.measuring.strata import centred


def inception_score(images: Described) -> Measured:
    """Return the Inception score (Salimans et al. 2016), the mean of that of ten parts of the images.

    With p the classes' probabilities of an image and q their mean, it is exp(mean of KL(p, q)), and the influence of an
    image on it is the score times KL(p, q) less its mean: the derivative with respect to q adds nothing. The interval
    is for the mean score of sets of this size, which is smaller than that of infinitely many images.
    """
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric

    value = isc_features_to_metric(images.logits)[KEY_METRIC_ISC_MEAN]
    log_p = images.logits.double().log_softmax(dim=1)
    p = log_p.exp()
    divergence = (p * (log_p - p.mean(dim=0).log())).nansum(dim=1).numpy()
    return from_influences(value, value * centred(divergence, images.strata), None)
