"""Every private name of PyTorch that this library uses, and what happens when it goes.

PyTorch may rename them in any version. `test_private.py` holds the two lists against the package
(none is missing, each is used where it says), `test_private_torch.py` against the PyTorch that is
installed.
"""

from typing import NamedTuple


class Use(NamedTuple):
    """Where a name is used, and what happens without it."""

    where: str  # modules of the package
    gone: str


# What begins with an underscore, behind the object that has it. `raises`: an AttributeError or an
# ImportError at the place, before any number is wrong.
NAMES: dict[str, Use] = {
    "torch._C._are_functorch_transforms_active": Use(
        "calling.inputs ops.lives penalties.checks", "raises in every attack, op and penalty"
    ),
    "torch._C._nn": Use("calling.stock", "raises at import"),
    "torch._C._functorch": Use(
        "step.traced.record", "a step whose model differentiates itself runs eager, with a warning"
    ),
    "torch._C._autograd._top_saved_tensors_default_hooks": Use(
        "calling.contexts", "raises in forward_with_penalty, deepfool and jacobian"
    ),
    "constant._dynamo_marked_constant": Use(
        "ops.lives", "a compiled function stops at the question which kernels a GPU has"
    ),
    "torch._dynamo": Use(
        "calling.contexts timing.rivals",
        "raises where a compiler has been loaded, and in a rival's step of the benchmarks",
    ),
    "torch.distributed.distributed_c10d._get_default_store": Use(
        "meeting", "raises where several processes of torch.distributed share a job"
    ),
    "DistributedDataParallel._get_active_ddp_module": Use(
        "portion", "raises where processes of torch.distributed are"
    ),
    "torch.cuda._sleep": Use("timing.turns", "raises where a benchmark times kernels"),
    "torch._dynamo.eval_frame._stance": Use("calling.contexts", "raises where dynamo is loaded"),
    "torch._dynamo.eval_frame._set_stance": Use("calling.contexts", "raises likewise"),
    "torch._scaled_dot_product_attention_math": Use(
        "calling.attention", "raises in forward_with_penalty of a model with attention"
    ),
    "torch.ops.aten._safe_softmax": Use(
        "fused_attention", "raises in a one-line penalty through fused attention"
    ),
    "torch.ops.aten._pack_padded_sequence": Use("step.traced.refuse", "raises at import"),
    "torch.autograd.forward_ad._current_level": Use("ops.lives", "raises in every op"),
    "torch.nn.modules.batchnorm._BatchNorm": Use("step.checks", "raises at import"),
    "torch.nn.modules.batchnorm._NormBase": Use("calling.baked", "raises at import"),
    "torch.nn.modules.dropout._DropoutNd": Use("calling.baked", "raises at import"),
    "torch.nn.modules.module._has_any_global_hook": Use(
        "calling.parts step.traced.refuse", "raises at import"
    ),
    "torch.utils._pytree": Use(
        "calling.arguments calling.tensors step.traced.guards step.traced.replay step.traced.trace",
        "raises at import",
    ),
    "torch.utils._device": Use("calling.stock step.traced.refuse", "raises at import"),
    "torch.utils._python_dispatch._get_current_dispatch_mode_stack": Use(
        "step.traced.refuse", "raises with compiled="
    ),
    "torch.overrides._get_current_function_mode_stack": Use(
        "calling.stock step.traced.refuse", "raises in forward_with_penalty and every attack"
    ),
    "torch.utils._python_dispatch._disable_current_modes": Use(
        "step.traced.record", "raises at import"
    ),
    "torch._C._get_fp32_precision_getter": Use("step.traced.guards", "raises with compiled="),
    "torch._inductor": Use("step.traced.backends", "raises with compiled='inductor'"),
    "torch.nn.utils.parametrize._cache_enabled": Use("step.traced.refuse", "raises with compiled="),
    "torch.nn.utils.parametrize._cache": Use("calling.anew", "raises in every attack"),
    "torch.ops.aten._foreach_add_": Use("step.traced.missing", "raises at import"),
    "torch.ops.aten._foreach_mul_": Use("step.traced.missing", "raises at import"),
    "torch.ops._c10d_functional": Use(
        "step.traced.refuse", "silent: communication of the model would be recorded"
    ),
    "OpOverload._schema": Use(
        "step.traced.unseen step.traced.writes", "not traced: an error is the reason"
    ),
    "Inductor._boxed_call": Use(
        "step.traced.backends", "silent: what is kept is freed at the end of a backward pass"
    ),
    "Pruning._tensor_name": Use(
        "calling.anew",
        "a pruned model is not traced: its weight is another in each call; silent: after an "
        "attack its weight has no graph",
    ),
    "Module._modules": Use(
        "calling.functions calling.tree step.checks step.traced.guards",
        "raises in every attack and penalty",
    ),
    "Module._parameters": Use(
        "calling.anew calling.modes calling.parts calling.pieces calling.places calling.tree "
        "step.checks step.traced.guards",
        "raises in every attack and penalised step",
    ),
    "Module._buffers": Use(
        "calling.modes calling.places calling.state step.traced.guards",
        "raises in every attack and penalised step; as a key of vars(module), where a second "
        "pass on copies would write to the buffers themselves",
    ),
    "Module._forward_hooks": Use("calling.parts lipschitz step.inner", "raises"),
    "Module._forward_pre_hooks": Use(
        "calling.anew calling.parts calling.state lipschitz step.traced.guards", "raises"
    ),
    "Module._backward_hooks": Use(
        "calling.parts lipschitz step.checks", "raises; of a parameter, too"
    ),
    "Module._backward_pre_hooks": Use("calling.parts lipschitz", "raises"),
    "Module._compiled_call_impl": Use(
        "calling.functions step.attach",
        "raises; if it is there and nn.Module does not call it, `penalised` raises that the model "
        "was not called",
    ),
    "StateDict._extra_state": Use(
        "models.weights", "weights with a state that is no tensor are refused as no state_dict"
    ),
    "CompiledModule._orig_mod": Use(
        "calling.functions step.checks step.traced.guards",
        "silent: a compiled model is not recognised, and runs compiled",
    ),
    "CompiledFunction._torchdynamo_orig_callable": Use(
        "calling.functions", "silent: the same of a compiled function"
    ),
    "Parameter._post_accumulate_grad_hooks": Use(
        "timing.task", "silent: an optimiser in such a hook would run while steps are timed"
    ),
    "Tensor._is_zerotensor": Use(
        "step.traced.unseen", "raises at the first operation of a step that is recorded"
    ),
    "Tensor._version": Use(
        "calling.moved step.inner step.traced.replay",
        "raises in forward_with_penalty",
    ),
    "Tensor._is_view": Use("lean.known", "raises at an activation in place"),
    "Node._sequence_nr": Use("step.pending", "raises in forward_with_penalty"),
    "Node._raw_saved_": Use(
        "graph",
        "silent: no graph is apart, which costs memory; a loss kept on the side that comes too "
        "late hears PyTorch's words",
    ),
    "Node._input_metadata": Use("graph lacking step.penalise", "raises"),
    "FunctionNode._forward_cls": Use("foreign batching", "raises where a model has Functions"),
    "BatchNormNode._saved_training": Use("graph", "raises where a model has batch-norm"),
    "TwiceBatchNormNode._saved_train": Use(
        "graph third",
        "batch statistics are refused where a model differentiates itself in eval mode",
    ),
    "TwiceLayerNormNode._saved_grad_out": Use(
        "third", "raises where a model differentiates itself"
    ),
    "TwiceLayerNormNode._saved_input": Use("third", "raises likewise"),
    "TwiceLayerNormNode._saved_weight": Use("third", "raises likewise"),
    "TwiceBatchNormNode._saved_eps": Use("third", "raises likewise"),
    "TwiceCudnnNode._saved_epsilon": Use("third", "raises likewise, on a GPU"),
    "TwiceCudnnNode._saved_grad_output": Use("third", "raises likewise"),
    "TwiceLayerNormNode._saved_rstd": Use("third", "raises likewise"),
    "TwiceLayerNormNode._saved_normalized_shape": Use("third", "raises likewise"),
    "BatchNormNode._saved_running_mean": Use(
        "graph", "silent: words of an error advise running statistics where there are none"
    ),
    "ViewNode._saved_self_sym_sizes": Use("graph", "instance-norm is taken for batch-norm"),
    "ProductNode._saved_mat2_sym_sizes": Use("batching", "raises where a model has linear layers"),
    "BatchNormNode._saved_input": Use("layouts", "raises where batches have one sample"),
    "HardsigmoidNode._saved_self": Use("second", "raises where a model has nn.Hardsigmoid"),
    "NormNode._saved_self": Use("zero_norm", "raises where a model has norms"),
    "NormNode._saved_result": Use("zero_norm", "raises likewise"),
    "NormNode._saved_ord": Use("zero_norm", "raises likewise"),
    "NormNode._saved_dim": Use("zero_norm", "raises likewise"),
    "NormNode._saved_keepdim": Use("zero_norm", "raises likewise"),
    "DistanceNode._saved_p": Use("zero_norm", "raises where a model has F.pairwise_distance"),
    "AttentionNode._saved_query": Use(
        "fused_attention", "PyTorch raises that its kernel has no second derivative"
    ),
    "AttentionNode._saved_key": Use("fused_attention", "raises where a model has attention"),
    "AttentionNode._saved_value": Use("fused_attention", "raises likewise"),
    "AttentionNode._saved_scale": Use("fused_attention", "raises likewise"),
    "AttentionNode._saved_is_causal": Use("fused_attention", "raises likewise"),
    "AttentionNode._saved_dropout_p": Use("fused_attention", "raises likewise"),
    "AttentionNode._saved_attn_mask": Use(
        "fused_attention",
        "silent: the mask is left out of the second derivative; tests/test_fused_attention.py",
    ),
    # of a GPU's kernel: there is none to look at without one
    "CudaAttentionNode._saved_attn_bias": Use("fused_attention", "silent, as _saved_attn_mask"),
}

# What the names of nodes of a graph hold. All are silent: a node that is called otherwise is not
# recognised, and what is done about it is not.
NODES: dict[str, Use] = {
    "torch::autograd::AccumulateGrad": Use("graph", "no leaf is found: every model is refused"),
    "torch::autograd::Error": Use("foreign", "once_differentiable loses its part of the penalty"),
    "torch::autograd::NotImplemented": Use("lacking", "PyTorch's own words for the error"),
    "ScanAutogradOpBackward": Use("foreign", "PyTorch's scan loses its part of the penalty"),
    "WhileLoopAutogradOpBackward": Use("foreign", "the same of its while_loop"),
    "CdistBackwardBackward0": Use("lacking", "PyTorch's own words for the error"),
    "PdistBackwardBackward0": Use("lacking", "PyTorch's own words for the error"),
    "StandardGammaGradBackward0": Use("lacking", "PyTorch's own words for the error"),
    "CudnnRnnBackwardBackward0": Use("lacking", "PyTorch's own words for the error"),
    "BatchNormBackward": Use("graph", "training mode is not refused, layouts are not aligned"),
    "SyncBatchNorm": Use("graph", "the same over several processes"),
    "GroupNorm": Use("batching", "a batched backward pass, wrong for some shapes"),
    "Convolution": Use("batching", "a batched backward pass for more samples than it pays for"),
    "AddmmBackward0": Use("batching", "none where a large weight makes it pay"),
    "TBackward0": Use("batching", "a loop where a batched backward pass would pay"),
    "MmBackward0": Use("batching", "the same"),
    "CppNode": Use("second", "a C++ Function without a graph loses its part of the penalty"),
    "CompiledFunctionBackward": Use("second", "PyTorch's words for a compiled model"),
    "_DDPSinkBackward": Use(
        "second", "a step in DistributedDataParallel(static_graph=True) is not averaged"
    ),
    "DifferentiableGraphBackward": Use("layouts", "no warning where TorchScript has fused layers"),
    "HardsigmoidBackward0": Use("second", "PyTorch raises that there is no second derivative"),
    "LinalgVectorNormBackward0": Use("zero_norm", "NaN behind norms that are zero"),
    "NormBackward1": Use("zero_norm", "the same of F.pairwise_distance"),
    "NativeLayerNormBackwardBackward0": Use(
        "third", "a wrong gradient of the penalty of a model that differentiates itself"
    ),
    "NativeBatchNormBackwardBackward0": Use("third", "the same"),
    "CudnnBatchNormBackwardBackward0": Use("third", "the same on a GPU"),
    "BackwardBackward0": Use("graph", "raises where a model with batch-norm differentiates itself"),
    "ScaledDotProduct": Use("fused_attention", "PyTorch raises that there is no second derivative"),
    "Backward0": Use("fused_attention lean.gram", "as the names that end in it"),
}
