"""What autograd keeps for the backward pass."""

import torch


def kept_bytes(function, module):
    """Bytes of the tensors that `function` keeps, each storage once, without the parameters."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    seen = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = function()
    del result
    return sum(seen.values())
