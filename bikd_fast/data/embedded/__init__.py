"""The embedded data set `textures`: real photographs and rendered products, with defects, made on first use."""

from bikd_fast.data.embedded.build import ensure_textures

__all__ = ["ensure_textures"]
