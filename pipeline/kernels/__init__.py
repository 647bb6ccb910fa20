"""Native CPU kernels: parts of the models as MLX primitives in C++ (docs/explanation/kernels.md).

`native/` is the C++ code, `build` compiles it, `library` finds and loads the result, `selftest` tries it
once it is built. What belongs here: code that computes named parts of the models on a CPU, from weights as
their checkpoint stores them. What does not: which models use it (`pipeline.models.native`), and the
definition of what they compute, which is the MLX code beside each use.
"""
