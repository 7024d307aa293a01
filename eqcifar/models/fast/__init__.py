"""What makes convolutions quick on CPUs, behind `models.Conv2d`.

XLA on CPUs compiles a network's forward pass well and its gradients badly. Three things
here, and two of `parallel.compiler_options`, mend that; on other devices XLA's own
convolutions and gradients are as they are. Each gives the same numbers as the plain
convolution, to the rounding of its sums, with every derivative.

- **Eigen, not YNNPACK** (`parallel.compiler_options`): YNNPACK takes 1.6 to 2 times
  as long for the gradients of kernels.
- **Barriers round convolutions** (`materialise`): XLA fuses the normalisation and the
  activation before a convolution into the transposed copies that its gradients read,
  and computes them anew there, at a stride of whole images. A barrier makes it write
  the value once. By default barriers end before operations are fused; the second
  option keeps them until then.
- **An algorithm for each gradient** (`convolve_3x3`): as a primitive, the gradient of
  images is a convolution with the turned kernel, and that of the kernel has an
  algorithm of its own. Images of 2x2 and less are multiplied by the whole matrix, for
  which XLA's convolution takes 80 times as long.
- **Winograd's algorithm** F(4x4, 3x3) for 32 channels and more in float32 and float64:
  a quarter of the products, for sums before and after them. It pays where products are
  dear: with many channels, and most on CPUs with narrow vectors.

What bounds networks of few channels: with 16 channels on 32x32 images, XLA's
convolutions by Eigen are the quickest that JAX's operations have. Winograd's algorithm,
products of shifted images and matrices of patches take 2 to 10 times as long, for they
move more memory than they save products. Eigen's take 1.6 times as long as PyTorch's
(oneDNN) forward and 3.4 times for the gradient of the kernel.

`python -m benchmarks cpu_ablation` measures each alone; tests compare all with the
plain convolution in float64.
"""

from ._barrier import materialise as materialise
from ._convolve_3x3 import (
    convolve_3x3 as convolve_3x3,
    convolve_3x3_p as convolve_3x3_p,
)
