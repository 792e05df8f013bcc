"""The settings of a training that takes seconds: tiny pictures, a tiny student, a backbone without pretrained weights."""

TINY = ["--model.weights", "random", "--model.size", "0.125", "--data.image_size", "64", "--training.batch_size", "4"]
