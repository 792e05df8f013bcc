"""Running a trained detector over pictures: calibration, evaluation, prediction."""
