"""Everybody's names translated to ours: one function a published layout, and the table that tells layouts apart.

A translation answers where a tensor of their file goes: (our name, part, parts). It fills slice `part` of `parts` equal
slices along the first axis, since we keep in one matrix what is multiplied together (Q, K, V; gate and up). None: the
name is known and not needed. KeyError: the name is unknown. `checkpoints/plan.py` does the rest.

To add a layout: write its translation, add a line to LAYOUTS, and a test in tests/checkpoints/test_layouts.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

Place = tuple[str, int, int]
Translate = Callable[[str], "Place | None"]


def translate_ours(name: str) -> Place | None:
    """Our own names stay as they are."""
    return name, 0, 1


LLAMA = {
    "self_attn.q_proj": ("attn.{}.qkv", 0, 3),
    "self_attn.k_proj": ("attn.{}.qkv", 1, 3),
    "self_attn.v_proj": ("attn.{}.qkv", 2, 3),
    "self_attn.o_proj": ("attn.{}.out", 0, 1),
    "self_attn.q_norm": ("attn.{}.q_norm", 0, 1),
    "self_attn.k_norm": ("attn.{}.k_norm", 0, 1),
    "mlp.gate_proj": ("{}.mlp.gate_up", 0, 2),
    "mlp.up_proj": ("{}.mlp.gate_up", 1, 2),
    "mlp.down_proj": ("{}.mlp.down", 0, 1),
    "input_layernorm": ("{}.attn_norm", 0, 1),
    "post_attention_layernorm": ("{}.mlp_norm", 0, 1),
}


def translate_llm(name: str) -> Place | None:
    """Llama's names under `language_model.`; the gen branch's twins are marked `_moe_gen`."""
    branch = "gen" if "_moe_gen" in name else "und"
    plain = name.replace("_moe_gen", "")
    if plain == "language_model.model.norm.weight":
        return f"norm.{branch}.weight", 0, 1
    if name in ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight"):
        return name.removeprefix("language_model.").removeprefix("model."), 0, 1
    if match := re.fullmatch(r"language_model\.model\.layers\.(\d+)\.(.+)\.(weight|bias)", plain):
        layer, part, kind = match.groups()
        ours, part, parts = LLAMA[part]
        return f"layers.{layer}.{ours.format(branch)}.{kind}", part, parts
    raise KeyError(name)


def translate_unix(name: str) -> Place | None:
    """UniX as published: Janus-Pro's names, the gen branch's twins, and the latents' projections."""
    if ".attn_pool." in name or name in ("latent_pos_embed.pos_embed", "vit_pos_embed.pos_embed"):
        return None  # a pooling head that nothing uses, and two fixed tables that are computed
    if name.startswith("vit_model.vision_tower."):  # timm's names are ours, but for two levels
        ours = name.removeprefix("vit_model.vision_tower.").replace("patch_embed.proj", "patch_embed")
        return "vit." + re.sub(r"(blocks\.\d+)\.(?:attn|mlp)\.", r"\1.", ours), 0, 1
    if name.startswith("connector."):
        return name.replace("connector.fc1", "connector.layers.0").replace("connector.fc2", "connector.layers.2"), 0, 1
    if name.startswith(("time_embedder.", "vae2llm.", "llm2vae.")):
        return name, 0, 1
    return translate_llm(name)


def translate_janus(name: str) -> Place | None:
    """Janus-Pro as deepseek-ai publishes it. gen_*: its own image tokens, which UniX replaces by latents."""
    if name.startswith("gen_") or ".attn_pool." in name:
        return None
    if name.startswith("vision_model.vision_tower."):
        return translate_unix(name.replace("vision_model.", "vit_model.", 1))
    if name.startswith("aligner."):
        return name.replace("aligner.", "connector.", 1), 0, 1
    return translate_llm(name)


def translate_hf_vit(name: str) -> Place | None:
    """SigLIP's names in `transformers` (Janus's own are the same but for one)."""
    if name.startswith("head."):  # attention pooling
        return None
    ours = {
        "embeddings.patch_embedding.weight": "patch_embed.weight",
        "embeddings.patch_embedding.bias": "patch_embed.bias",
        "embeddings.position_embedding.weight": "pos_embed",
        "post_layernorm.weight": "norm.weight",
        "post_layernorm.bias": "norm.bias",
    }.get(name)
    if ours:
        return ours, 0, 1
    if match := re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name):
        layer, part, kind = match.groups()
        ours, part, parts = {
            "layer_norm1": ("norm1", 0, 1),
            "self_attn.q_proj": ("qkv", 0, 3),
            "self_attn.k_proj": ("qkv", 1, 3),
            "self_attn.v_proj": ("qkv", 2, 3),
            "self_attn.out_proj": ("proj", 0, 1),
            "self_attn.projection_layer": ("proj", 0, 1),
            "layer_norm2": ("norm2", 0, 1),
            "mlp.fc1": ("fc1", 0, 1),
            "mlp.fc2": ("fc2", 0, 1),
        }[part]
        return f"blocks.{layer}.{ours}.{kind}", part, parts
    raise KeyError(name)


def translate_hf_janus(name: str) -> Place | None:
    """Janus-Pro as `transformers` saves it."""
    if name.startswith(("model.vqmodel.", "model.generation_")):
        return None
    if name == "lm_head.weight":
        return name, 0, 1
    if name.startswith("model.vision_model."):
        place = translate_hf_vit(name.removeprefix("model.vision_model."))
        return place and ("vit." + place[0], *place[1:])
    if match := re.fullmatch(r"model\.aligner\.(fc1|hidden_layers\.0)\.(weight|bias)", name):
        return f"connector.layers.{0 if match[1] == 'fc1' else 2}.{match[2]}", 0, 1
    if name.startswith("model.language_model."):
        return translate_llm(name.replace("model.language_model.", "language_model.model.", 1))
    raise KeyError(name)


def translate_siglip(name: str) -> Place | None:
    """SigLIP as `transformers` saves it, whole or its vision model alone."""
    if name.startswith(("text_model.", "logit_")):
        return None
    return translate_hf_vit(name.removeprefix("vision_model."))


def translate_dinov2(name: str) -> Place | None:
    """RadDino: DINOv2's names in `transformers`."""
    plain = name.removeprefix("dinov2.")
    if plain == "embeddings.mask_token":  # of its training
        return None
    ours = {
        "embeddings.cls_token": "cls_token",
        "embeddings.position_embeddings": "pos_embed",
        "embeddings.patch_embeddings.projection.weight": "patch_embed.weight",
        "embeddings.patch_embeddings.projection.bias": "patch_embed.bias",
        "layernorm.weight": "norm.weight",
        "layernorm.bias": "norm.bias",
    }.get(plain)
    if ours:
        return ours, 0, 1
    if match := re.fullmatch(r"encoder\.layer\.(\d+)\.(.+)\.(weight|bias|lambda1)", plain):
        layer, part, kind = match.groups()
        ours, part, parts = {
            "norm1": ("norm1", 0, 1),
            "attention.attention.query": ("qkv", 0, 3),
            "attention.attention.key": ("qkv", 1, 3),
            "attention.attention.value": ("qkv", 2, 3),
            "attention.output.dense": ("proj", 0, 1),
            "layer_scale1": ("scale1", 0, 1),
            "norm2": ("norm2", 0, 1),
            "mlp.fc1": ("fc1", 0, 1),
            "mlp.fc2": ("fc2", 0, 1),
            "layer_scale2": ("scale2", 0, 1),
        }[part]
        return f"blocks.{layer}.{ours}.{'gamma' if kind == 'lambda1' else kind}", part, parts
    raise KeyError(name)


def translate_bert(name: str) -> Place | None:
    """BERT's names in `transformers`."""
    if name.startswith("pooler.") or name == "embeddings.position_ids":  # an unused head; 0, 1, 2, ...
        return None
    if match := re.fullmatch(r"embeddings\.(word|position|token_type)_embeddings\.weight", name):
        return f"{match[1]}.weight", 0, 1
    if match := re.fullmatch(r"embeddings\.LayerNorm\.(weight|bias)", name):
        return f"norm.{match[1]}", 0, 1
    if match := re.fullmatch(r"encoder\.layer\.(\d+)\.(.+)\.(weight|bias)", name):
        layer, part, kind = match.groups()
        ours, part, parts = {
            "attention.self.query": ("qkv", 0, 3),
            "attention.self.key": ("qkv", 1, 3),
            "attention.self.value": ("qkv", 2, 3),
            "attention.output.dense": ("proj", 0, 1),
            "attention.output.LayerNorm": ("norm1", 0, 1),
            "intermediate.dense": ("fc1", 0, 1),
            "output.dense": ("fc2", 0, 1),
            "output.LayerNorm": ("norm2", 0, 1),
        }[part]
        return f"blocks.{layer}.{ours}.{kind}", part, parts
    raise KeyError(name)


def translate_chexbert(name: str) -> Place | None:
    """CheXbert: a BERT and 14 linear heads, saved from a DataParallel module."""
    plain = name.removeprefix("module.")
    if re.fullmatch(r"linear_heads\.\d+\.(weight|bias)", plain):
        return plain.replace("linear_heads.", "heads."), 0, 1
    if plain.startswith("bert."):
        place = translate_bert(plain.removeprefix("bert."))
        return place and ("bert." + place[0], *place[1:])
    raise KeyError(name)


def translate_cxr_bert(name: str) -> Place | None:
    """CXR-BERT: a BERT, the head it was pretrained with (skipped), and the projection to the image's space."""
    if name.startswith("cls."):
        return None
    if match := re.fullmatch(r"cls_projection_head\.(dense_to_hidden|LayerNorm|dense_to_output)\.(weight|bias)", name):
        ours = {"dense_to_hidden": 0, "LayerNorm": 2, "dense_to_output": 3}[match[1]]
        return f"projection.{ours}.{match[2]}", 0, 1
    if name.startswith("bert."):
        place = translate_bert(name.removeprefix("bert."))
        return place and ("bert." + place[0], *place[1:])
    raise KeyError(name)


def translate_biovil(name: str) -> Place | None:
    """BioViL's image side: torchvision's ResNet-50, and a projection."""
    if name.startswith("encoder.encoder.fc."):  # ImageNet's classes
        return None
    if name.startswith("encoder.encoder."):
        return name.replace("encoder.encoder.", "resnet.", 1), 0, 1
    if name.startswith("projector.model."):
        return name.replace("projector.model.", "projector.", 1), 0, 1
    raise KeyError(name)


def translate_biovil_t(name: str) -> Place | None:
    """BioViL-T's image side: as BioViL's, and what stands for a previous image; the pooler of two images is skipped."""
    if name.startswith("encoder.vit_pooler."):
        return None
    if name == "encoder.backbone_to_vit.weight":
        return "reduce.weight", 0, 1
    if name == "encoder.missing_previous_emb":
        return "missing_previous", 0, 1
    return translate_biovil(name)


def translate_vae(name: str) -> Place | None:
    """kl-f16's names are ours; its training loss came along and is skipped."""
    return None if name.startswith("loss.") else (name, 0, 1)


@dataclass(frozen=True)
class Layout:
    """A published way of naming tensors: how to know it, how to translate it, what it is for."""

    holds: str
    marks: tuple[str, ...]  # endings of names that together occur in no other layout
    translate: Translate
    use: str  # what a reader can do with it


JANUS = Layout(
    "Janus-Pro, original layout",
    ("language_model.model.embed_tokens.weight", "vision_model.vision_tower.pos_embed"),
    translate_janus,
    "python weights.py convert {folder} OUT --vae KL-F16, then train.py --stage 1 --init OUT",
)
HF_JANUS = Layout(
    "Janus-Pro, Hugging Face layout",
    ("model.language_model.embed_tokens.weight", "model.vision_model.embeddings.position_embedding.weight"),
    translate_hf_janus,
    JANUS.use,
)
PUBLISHED = Layout(
    "UniX as published",
    ("language_model.model.norm_moe_gen.weight",),
    translate_unix,
    'python sample.py "..." --weights {folder}',
)
OURS = Layout(
    "ours: UniX", ("layers.0.attn.und.qkv.weight",), translate_ours, 'python sample.py "..." --weights {folder}'
)
KL_VAE = Layout(
    "a KL autoencoder (kl-f16's names, which are also ours)",
    ("encoder.conv_in.weight", "post_quant_conv.weight"),
    translate_vae,
    "the --vae of python weights.py convert, or put into the folder vae/ beside published UniX weights",
)
SIGLIP = Layout(
    "SigLIP, Hugging Face layout", ("embeddings.position_embedding.weight",), translate_siglip, "weights.load_vit"
)
DINOV2 = Layout("RadDino (DINOv2)", ("embeddings.cls_token",), translate_dinov2, "weights.load_vit: REPA's target")
CHEXBERT = Layout("CheXbert", ("linear_heads.13.weight",), translate_chexbert, "judges.chexbert.load_chexbert")
CXR_BERT = Layout(
    "CXR-BERT, the aligner's text side",
    ("cls_projection_head.dense_to_hidden.weight",),
    translate_cxr_bert,
    "judges.biovil.load_aligner",
)
BIOVIL = Layout(
    "BioViL's ResNet-50, the aligner's image side",
    ("encoder.encoder.conv1.weight", "projector.model.0.weight"),
    translate_biovil,
    "judges.biovil.load_aligner",
)
BIOVIL_T = Layout(
    "BioViL-T's image side",
    ("encoder.missing_previous_emb", "projector.model.0.weight"),
    translate_biovil_t,
    "judges.biovil.load_aligner",
)
BERT = Layout("BERT", ("embeddings.word_embeddings.weight",), translate_bert, "judges.bert.Bert")
LAYOUTS = [OURS, PUBLISHED, JANUS, HF_JANUS, KL_VAE, SIGLIP, DINOV2, CHEXBERT, CXR_BERT, BIOVIL_T, BIOVIL, BERT]


def recognise(names: Iterable[str]) -> Layout | None:
    """The first layout all of whose marks end some name; None if there is none."""
    names = list(names)
    for layout in LAYOUTS:
        if all(any(name.endswith(mark) for name in names) for mark in layout.marks):
            return layout
    return None
