# %% exercise: translate
def translate(name):
    """A published name -> (our name, part, parts) for Q, K and V; None for other names."""
    parts = name.split(".")  # language_model, model, layers, N, self_attn, k_proj_moe_gen, bias
    if ".self_attn." not in name or not parts[5].startswith(("q_proj", "k_proj", "v_proj")):
        return None
    layer, projection, kind = parts[3], parts[5], parts[6]
    branch = "gen" if projection.endswith("_moe_gen") else "und"
    return f"layers.{layer}.attn.{branch}.qkv.{kind}", "qkv".index(projection[0]), 3


# %% exercise: origin
def origin(name):
    """One of our names -> "read", "copied" or "new"."""
    if name.startswith(("vae2llm.", "llm2vae.", "time_embedder.")):
        return "new"
    if ".gen." in name or name.endswith(("q_norm.weight", "k_norm.weight", "und.qkv.bias")):
        return "copied"
    return "read"


# %% exercise: damage
def damage(tensors):
    """Change the dictionary of tensors in place."""
    gate = "language_model.model.layers.0.mlp_moe_gen.gate_proj.weight"
    up = gate.replace("gate_proj", "up_proj")
    tensors[gate], tensors[up] = tensors[up], tensors[gate]
