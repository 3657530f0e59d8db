"""The part of a training step that depends on the kind of model: diffusion, a VAE or a GAN. The loop is one."""
