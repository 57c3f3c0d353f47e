# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Exercises: MNIST
#
# You turn a density into bits, follow a label further than the model does, and measure the distance between two sets of digits. You need the sections of chapter 8 on bytes and densities, on measuring, and on labels and guidance. The line below each function checks it on random inputs; `check(..., seed=1)` draws others.
#
# Work with `torch` alone. The experiment at the end takes 1000 digits and a classifier from the package. Nothing is trained or downloaded.

# %%
# On Colab this cell installs the book's package; elsewhere it does nothing.
import sys

if "google.colab" in sys.modules:
    print("Installing the book's package")
    # this lab's own version where it is released, else the newest there is
    home, v = "https://github.com/fmtutorial/fmtutorial", "0.1.0"
    wheel = f"{home}/releases/download/v{v}/fmtutorial-{v}-py3-none-any.whl"
    # %pip install -q {wheel} 2> /dev/null || pip install -q git+{home}

# %%
import math

import torch

from fmtutorial.coursework import check

# %% [markdown]
# ## Bits per dimension (1 point)
#
# A model has a density $p$ on $\mathbb R^d$. Images with 256 levels were dequantised to $x\in[-1,1)^d$, as in the chapter. `log_prob` holds $\log p(x)$ for each of $B$ images, in natural logarithms, and `dimensions` is the integer $d$. Return the bits per dimension of each image,
#
# $$-\frac1d\log_2p(x)+7,$$
#
# shape $(B,)$, without averaging over the images. The uniform density, $\log p(x)=-d\log2$, must get 8.


# %%
def bits_per_dimension(log_prob, dimensions):
    """Return the bits per dimension, shape (B,); log_prob has shape (B,)."""
    # YOUR CODE HERE
    raise NotImplementedError


check("digits.bits_per_dimension", bits_per_dimension)

# %% [markdown]
# ## Guidance (1 point)
#
# `network(x, t, label)` is a velocity field that was trained with and without labels. It takes states `x` of shape $(B,\dots)$, times `t` of shape $(B,)$, and a label for each sample, integers of shape $(B,)$. With `None` for the label it returns the velocity without one. Return the velocity of classifier-free guidance,
#
# $$v^s_t(x)=(1-s)\,v_t(x)+s\,v_t(x\mid y),$$
#
# in the shape of `x`. The scale $s$ = `scale` has the shape `()`, and may be any number, also below 1 or negative.


# %%
def guided_velocity(network, x, t, label, scale):
    """Return the guided velocity, shaped like x; t, label: (B,), scale: ()."""
    # YOUR CODE HERE
    raise NotImplementedError


check("digits.guided_velocity", guided_velocity)

# %% [markdown]
# ## Fréchet distance (2 points)
#
# Return the Fréchet distance of two Gaussians, as the chapter uses it: squared,
#
# $$\lVert m-m'\rVert^2+\operatorname{tr}\bigl(C+C'-2\,(CC')^{1/2}\bigr).$$
#
# The means $m$ = `mean` and $m'$ = `other_mean` have the shape $(D,)$, and the covariances $C$ = `covariance` and $C'$ = `other_covariance` the shape $(D,D)$. All are in double precision. The result has the shape `()` and is real.
#
# PyTorch has no root of a matrix, and you only need its trace, the sum of its eigenvalues. How do the eigenvalues of a root come from those of the matrix? $CC'$ is not symmetric, but it has the eigenvalues of the symmetric matrix $C^{1/2}C'C^{1/2}$: they are real and not negative. The covariances may be singular: if rounding makes an eigenvalue slightly negative, of $C$ or of the product, take it as 0.


# %%
def frechet(mean, covariance, other_mean, other_covariance):
    """Return the squared distance, shape (); means (D,), covariances (D, D)."""
    # YOUR CODE HERE
    raise NotImplementedError


check("digits.frechet", frechet)

# %% [markdown]
# ## An experiment: how far are digits from digits?
#
# In the cell below, `features` are what the chapter's classifier sees in 1000 training digits, shape $(1000,64)$. Draw $n$ of them and $n$ others: the first and the next $n$ of a fresh `torch.randperm`. Fit means and covariances (`torch.cov` expects a row for each feature, so transpose) and take your distance. Print its average over 50 draws for $n=50,100,200,400$, and beside it the average of $\lVert m-m'\rVert^2$ alone. By the chapter's proposition on the floor the latter should be near $2\operatorname{tr}(C)/n$, with the covariance $C$ of all 1000: each of the two means is off by $\operatorname{tr}(C)/n$. The average over 50 draws has a standard error of some 7 %. Is it near? What makes up the rest? Someone reports a distance of 65 from 100 generated digits to as many real ones, someone else 30 from 400 to as many. Which generated digits are better?
#
# Then take a Gaussian as a model of digits. `pixels` and `test_pixels` are dequantised training and test digits, shape $(1000,784)$. Fit mean and covariance to `pixels`, add $\epsilon I$ to the covariance, and let `torch.distributions.MultivariateNormal` compute the log-densities. Print the mean bits per dimension of both sets for $\epsilon=0,10^{-4},10^{-3},10^{-2}$. With which $\epsilon$ is each of the two sets cheapest, and which set should decide? Does the model know more than the uniform density?

# %%
from fmtutorial.images.classifier import digit_classifier
from fmtutorial.images.data import dequantise, small_digits

generator = torch.Generator().manual_seed(0)
digits, test_digits = small_digits("train").images, small_digits("test").images
with torch.no_grad():
    features = digit_classifier()[0].features(digits).double()
pixels = dequantise(digits, generator).double().flatten(1)
test_pixels = dequantise(test_digits, generator).double().flatten(1)
