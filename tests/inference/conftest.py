from tiny_detector import detector, pictures, run

__all__ = ["detector", "pictures", "run"]
