"""The penalty inside other people's training loops; each module needs the package it is named for.

``jacfast.integrations.lightning.JacobianPenalty``, a callback of a Lightning ``Trainer``, and
``jacfast.integrations.transformers.JacobianTrainer``, a Hugging Face ``Trainer``. Accelerate needs
neither: ``accelerator.prepare(jacfast.WithPenalty(model, penalty))``.
"""
