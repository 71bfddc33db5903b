"""Explanations of a network's answer: Grad-CAM, Grad-CAM++ and an affordable, exact Score-CAM.

For research; a map shows what a network reacts to, not where a lesion is.
"""

from hmc_fast.explain.gradients import grad_cam, grad_cam_plus_plus
from hmc_fast.explain.score_cam import ScoreCam, score_cam, score_cam_details

__all__ = ["ScoreCam", "grad_cam", "grad_cam_plus_plus", "score_cam", "score_cam_details"]
