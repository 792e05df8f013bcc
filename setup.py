"""Two packages in one distribution: bikd_fast (the toolkit) and bikd_kernels (the operators, usable alone)."""

from setuptools import find_packages, setup

setup(
    packages=find_packages(".", include=["bikd_fast*"]) + find_packages("kernels", include=["bikd_kernels*"]),
    package_dir={"bikd_fast": "bikd_fast", "bikd_kernels": "kernels/bikd_kernels"},
    package_data={
        "bikd_fast": ["**/*.html", "**/*.css", "**/*.js", "**/*.j2", "**/*.yaml", "py.typed"],
        "bikd_kernels": ["**/*.json", "py.typed"],
    },
    include_package_data=True,
)
