"""Evaluation: metrics, comparison of detectors, calibration, words for classes."""
