"""Digits in one, two and four steps, by distribution matching. Chapter 10.

    .venv/bin/python tests/benchmarks/mnist_few_steps.py

Starts from the published one-step weights; the published flow is the teacher and the start of the
second network, which follows the student's own digits, for each of the student's times apart. A
classifier on the second network's features tells real digits from the student's, both under
noise: its log-odds are a second estimate of the same difference of scores. Writes
fmtutorial/data/mnist-few-steps.safetensors.
"""

import math
import time
from functools import partial

import torch
from provenance import RESULTS, save
from torch import nn
from torch.nn import functional as F

from fmtutorial.distribution_matching import distribution_matching_loss, renoise
from fmtutorial.images.batches import CLASSES
from fmtutorial.images.classifier import score_digits
from fmtutorial.images.data import dequantise, mnist
from fmtutorial.images.devices import autocast, fast_precision, in_precision
from fmtutorial.images.sampling import image_field, sample_digits
from fmtutorial.images.weights import load_weights, save_weights
from fmtutorial.labs import default_device, hardware
from fmtutorial.losses import flow_matching_loss
from fmtutorial.networks import UNet
from fmtutorial.paths import LINEAR, AffinePath
from fmtutorial.solvers import solve
from fmtutorial.training import EMA
