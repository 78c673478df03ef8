"""What should be seen: networks of infinite width, at initialization, and what a finite width adds.

`MeanField` is the theory of one network; `gain`, `critical_point` and `critical_line` say which network to build.
"""

from propscope.theory.depth_scales import DepthScales
from propscope.theory.elementwise import ActivationLike, Elementwise
from propscope.theory.fixed_points import FixedPoint, Law
from propscope.theory.mean_field import MeanField
from propscope.theory.propagation import Propagation

__all__ = ["ActivationLike", "DepthScales", "Elementwise", "FixedPoint", "Law", "MeanField", "Propagation"]
