"""Fused Triton operators for teacher-student anomaly detection; needs torch and triton, nothing of bikd_fast."""
