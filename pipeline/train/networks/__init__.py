"""The two models in PyTorch, whole sequences at a time, to be trained; `pipeline.models` steps through them.

Each can name its weights as Kyutai publishes them (`published`), which is what is exported.
"""
