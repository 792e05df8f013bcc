"""bikd_fast: teacher-student visual anomaly detection by bidirectional knowledge distillation.

    from bikd_fast import Detector
    Detector.load("runs/mine").predict(["picture.png"])
"""

__all__ = ["Detector"]


def __getattr__(name: str):
    if name == "Detector":  # imported on demand: `import bikd_fast` alone stays light
        from bikd_fast.models.detector import Detector

        return Detector
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
