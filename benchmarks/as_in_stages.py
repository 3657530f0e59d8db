"""Imported before torch: its threads wait for each other as they do in the stages of the pipeline."""

import os

from ddpm.compute.waiting import wait_briefly

wait_briefly(os.environ)
