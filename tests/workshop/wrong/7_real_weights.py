# %% exercise: translate
def translate(name):  # forgets the gen branch
    parts = name.split(".")
    if ".self_attn." not in name or parts[5][:6] not in ("q_proj", "k_proj", "v_proj"):
        return None
    return f"layers.{parts[3]}.attn.und.qkv.{parts[6]}", "qkv".index(parts[5][0]), 3


# %% exercise: translate
def translate(name):  # the order of the parts
    parts = name.split(".")
    if ".self_attn." not in name or parts[5][:6] not in ("q_proj", "k_proj", "v_proj"):
        return None
    branch = "gen" if "_moe_gen" in name else "und"
    return f"layers.{parts[3]}.attn.{branch}.qkv.{parts[6]}", "kqv".index(parts[5][0]), 3


# %% exercise: translate
def translate(name):  # a layer's number has more than one digit
    parts = name.split(".")
    if ".self_attn." not in name or parts[5][:6] not in ("q_proj", "k_proj", "v_proj"):
        return None
    branch = "gen" if "_moe_gen" in name else "und"
    return f"layers.{parts[3][0]}.attn.{branch}.qkv.{parts[6]}", "qkv".index(parts[5][0]), 3


# %% exercise: translate
def translate(name):  # the output projection is none of the three
    parts = name.split(".")
    if ".self_attn." not in name or "_proj" not in parts[5]:
        return None
    branch = "gen" if "_moe_gen" in name else "und"
    return f"layers.{parts[3]}.attn.{branch}.qkv.{parts[6]}", "qkvo".index(parts[5][0]), 3


# %% exercise: translate
def translate(name):  # no triple
    return name.replace("language_model.model.", "")


# %% exercise: origin
def origin(name):  # the gen branch is no random start
    return "new" if ".gen." in name or name.startswith(("vae2llm", "llm2vae", "time_embedder")) else "read"


# %% exercise: origin
def origin(name):  # Janus-Pro has no norms of queries and keys
    if name.startswith(("vae2llm", "llm2vae", "time_embedder")):
        return "new"
    return "copied" if ".gen." in name else "read"


# %% exercise: origin
def origin(name):  # forgets the time
    if name.startswith(("vae2llm", "llm2vae")):
        return "new"
    return "copied" if ".gen." in name or name.endswith(("q_norm.weight", "k_norm.weight", "und.qkv.bias")) else "read"


# %% exercise: origin
def origin(name):
    return "Janus"


# %% exercise: damage
def damage(tensors):  # a name that is missed
    del tensors["llm2vae.weight"]


# %% exercise: damage
def damage(tensors):  # nobody reads it
    tensors["latent_pos_embed.pos_embed"].zero_()


# %% exercise: damage
def damage(tensors):  # not finite
    tensors["llm2vae.weight"] /= 0


# %% exercise: damage
def damage(tensors):  # one memory under two names
    name = "language_model.model.layers.0.mlp_moe_gen.gate_proj.weight"
    tensors[name] = tensors[name.replace("gate", "up")]
