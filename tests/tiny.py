"""The settings of a training that takes seconds: tiny pictures, a tiny student, a backbone without pretrained weights."""

from bikd_fast.arguments import parse_run, run_parser
from bikd_fast.config import RunConfig

TINY = ["--model.weights", "random", "--model.size", "0.125", "--data.image_size", "64", "--training.batch_size", "4"]


def one_category(root, output, *extra: str) -> RunConfig:
    """A run over the category ``stripes`` of the fixture ``tiny_mvtec``, in fp32."""
    options = ["--data.format", "mvtec", "--data.root", str(root), "--data.category", "stripes", "--training.precision", "fp32"]
    return parse_run(run_parser("test", ""), [*TINY, *options, "--output", str(output), *extra])
