"""The optional C extension, and the examples, which a built package carries; everything else is in pyproject.toml."""

import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_py import build_py

# Comparisons become minimum and maximum instructions; the kernel asks the bits whether a number is finite.
FLAGS = ["-O3", "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-ffinite-math-only"]
# One build serves every Python from 3.11 on, whose stable interface has buffers; 3.10 has one of its own.
STABLE = sys.version_info >= (3, 11)


class BuildWithExamples(build_py):
    """Put the examples into the package, where `propscope example` finds them without the source."""

    def run(self):
        """Build, then copy."""
        super().run()
        # An editable install runs from the source, where they are.
        if not self.editable_mode:
            for path in sorted(Path("examples").glob("*.py")):
                target = Path(self.build_lib, "propscope", path)
                self.mkpath(str(target.parent))
                self.copy_file(str(path), str(target))


setup(
    cmdclass={"build_py": BuildWithExamples},
    ext_modules=[
        Extension(
            "propscope.measure._kernel",
            ["propscope/measure/_kernel.c"],
            define_macros=[("Py_LIMITED_API", "0x030B0000")] if STABLE else [],
            extra_compile_args=["/O2"] if sys.platform == "win32" else FLAGS,
            py_limited_api=STABLE,
            # dlsym has a library of its own before glibc 2.34.
            libraries=["dl"] if sys.platform.startswith("linux") else [],
            # Without a compiler the torch and numpy path serves.
            optional=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if STABLE else {},
)
