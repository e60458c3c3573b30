"""Everybody's names translated to ours: one table a published layout, and the list that tells layouts apart.

A row is their name and ours; N stands for the number of a layer, * for the rest of a name. What we keep in one matrix
because it is multiplied together (Q, K, V; gate and up) is a slice: 0/3 is the first of three equal ones along the
first axis. A row with - in place of our name is known and not needed. `checkpoints/plan.py` does the rest.
"""

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

Place = tuple[str, int, int]  # our name, and which of how many slices of it
Translate = Callable[[str], "Place | None"]  # None: to be skipped; raises KeyError for an unknown name


def translation(table: str) -> Translate:
    """Their name -> where it goes, by the first row that fits."""
    rows = []
    for theirs, ours, *part in (line.split() for line in table.split("\n") if line):
        pattern = re.escape(theirs).replace(r"\.N\.", r"\.(\d{1,4})\.").replace(r"\*", "(.+)")
        rows.append((re.compile(pattern), ours, *map(int, part[0].split("/") if part else (0, 1))))

    def translate(name: str) -> Place | None:
        for pattern, ours, number, parts in rows:
            if found := pattern.fullmatch(name):
                wild = iter(found.groups())  # what N and * stand for
                place = re.sub(r"(?<=\.)N(?=\.)|\*", lambda _: next(wild), ours)  # noqa: B023 (used at once)
                return None if ours == "-" else (place, number, parts)
        raise KeyError(name)

    return translate


def under(prefix: str, table: str, into: str = "") -> str:
    """The table of the same names behind `prefix`; ours then stand behind `into`."""
    rows = [line.split() for line in table.split("\n") if line]
    return "".join(f"{prefix}{a} {'' if b == '-' else into}{b} {' '.join(part)}\n" for a, b, *part in rows)


# ---- a UniX and what it starts from ------------------------------------------------------------------------------

LLM = """
language_model.model.embed_tokens.weight                    embed_tokens.weight
language_model.model.layers.N.input_layernorm.*             layers.N.und.attn_norm.*
language_model.model.layers.N.self_attn.q_proj.*            layers.N.attn.und.qkv.*             0/3
language_model.model.layers.N.self_attn.k_proj.*            layers.N.attn.und.qkv.*             1/3
language_model.model.layers.N.self_attn.v_proj.*            layers.N.attn.und.qkv.*             2/3
language_model.model.layers.N.self_attn.q_norm.*            layers.N.attn.und.q_norm.*
language_model.model.layers.N.self_attn.k_norm.*            layers.N.attn.und.k_norm.*
language_model.model.layers.N.self_attn.o_proj.*            layers.N.attn.und.out.*
language_model.model.layers.N.post_attention_layernorm.*    layers.N.und.mlp_norm.*
language_model.model.layers.N.mlp.gate_proj.*               layers.N.und.mlp.gate_up.*          0/2
language_model.model.layers.N.mlp.up_proj.*                 layers.N.und.mlp.gate_up.*          1/2
language_model.model.layers.N.mlp.down_proj.*               layers.N.und.mlp.down.*
language_model.model.norm.weight                            norm.und.weight
language_model.lm_head.weight                               lm_head.weight
"""
TOWER = """
vision_model.vision_tower.attn_pool.*                       -
vision_model.vision_tower.patch_embed.proj.*                vit.patch_embed.*
vision_model.vision_tower.blocks.N.attn.*                   vit.blocks.N.*
vision_model.vision_tower.blocks.N.mlp.*                    vit.blocks.N.*
vision_model.vision_tower.*                                 vit.*
"""
# Janus-Pro as deepseek-ai publishes it. gen_*: its own image tokens, which UniX replaces by latents.
JANUS_PRO = f"""{LLM}{TOWER}
aligner.*                                                   connector.*
gen_*                                                       -
"""
# UniX as published, without the gen branch, whose names are as those of its twin; the last two are computed.
UNIX = f"""{LLM}{TOWER.replace("vision_model", "vit_model")}
connector.fc1.*                                             connector.layers.0.*
connector.fc2.*                                             connector.layers.2.*
connector.*                                                 connector.*
time_embedder.*                                             time_embedder.*
vae2llm.*                                                   vae2llm.*
llm2vae.*                                                   llm2vae.*
latent_pos_embed.pos_embed                                  -
vit_pos_embed.pos_embed                                     -
"""
# SigLIP's vision model in `transformers`; the projection layer is that of Janus's own.
HF_TOWER = """
embeddings.patch_embedding.*                                patch_embed.*
embeddings.position_embedding.weight                        pos_embed
encoder.layers.N.layer_norm1.*                              blocks.N.norm1.*
encoder.layers.N.self_attn.q_proj.*                         blocks.N.qkv.*                      0/3
encoder.layers.N.self_attn.k_proj.*                         blocks.N.qkv.*                      1/3
encoder.layers.N.self_attn.v_proj.*                         blocks.N.qkv.*                      2/3
encoder.layers.N.self_attn.out_proj.*                       blocks.N.proj.*
encoder.layers.N.self_attn.projection_layer.*               blocks.N.proj.*
encoder.layers.N.layer_norm2.*                              blocks.N.norm2.*
encoder.layers.N.mlp.*                                      blocks.N.*
post_layernorm.*                                            norm.*
head.*                                                      -
"""
# Janus-Pro as `transformers` saves it.
HF_JANUS_PRO = f"""{LLM.replace("language_model.model", "model.language_model")}
{under("model.vision_model.", HF_TOWER, "vit.")}
lm_head.weight                                              lm_head.weight
model.aligner.fc1.*                                         connector.layers.0.*
model.aligner.hidden_layers.0.*                             connector.layers.2.*
model.vqmodel.*                                             -
model.generation_*                                          -
"""
# kl-f16's names are ours; its training loss came along.
KL_F16 = """
loss.*                                                      -
*                                                           *
"""
translate_ours = translation("* *")
translate_janus, translate_vae, translate_und = map(translation, (JANUS_PRO, KL_F16, UNIX))


def translate_unix(name: str) -> Place | None:
    """UniX as published. The gen branch's twin of a tensor is marked `_moe_gen`."""
    place = translate_und(name.replace("_moe_gen", ""))
    if "_moe_gen" not in name:
        return place
    if place is None or "und" not in place[0].split("."):
        raise KeyError(name)
    return place[0].replace("und.", "gen."), *place[1:]


# ---- the judges --------------------------------------------------------------------------------------------------

# SigLIP as `transformers` saves it, whole or its vision model alone.
SIGLIP_NAMES = f"""{HF_TOWER}{under("vision_model.", HF_TOWER)}
text_model.*                                                -
logit_*                                                     -
"""
# RadDino: DINOv2 in `transformers`. The mask token is of its training.
DINO = """
embeddings.cls_token                                        cls_token
embeddings.position_embeddings                              pos_embed
embeddings.patch_embeddings.projection.*                    patch_embed.*
embeddings.mask_token                                       -
encoder.layer.N.attention.attention.query.*                 blocks.N.qkv.*                      0/3
encoder.layer.N.attention.attention.key.*                   blocks.N.qkv.*                      1/3
encoder.layer.N.attention.attention.value.*                 blocks.N.qkv.*                      2/3
encoder.layer.N.attention.output.dense.*                    blocks.N.proj.*
encoder.layer.N.layer_scale1.lambda1                        blocks.N.scale1.gamma
encoder.layer.N.layer_scale2.lambda1                        blocks.N.scale2.gamma
encoder.layer.N.mlp.*                                       blocks.N.*
encoder.layer.N.norm1.*                                     blocks.N.norm1.*
encoder.layer.N.norm2.*                                     blocks.N.norm2.*
layernorm.*                                                 norm.*
"""
# BERT in `transformers`: a head that nothing uses, and the numbers 0, 1, 2, ...
BERT_NAMES = """
embeddings.word_embeddings.*                                word.*
embeddings.position_embeddings.*                            position.*
embeddings.token_type_embeddings.*                          token_type.*
embeddings.LayerNorm.*                                      norm.*
encoder.layer.N.attention.self.query.*                      blocks.N.qkv.*                      0/3
encoder.layer.N.attention.self.key.*                        blocks.N.qkv.*                      1/3
encoder.layer.N.attention.self.value.*                      blocks.N.qkv.*                      2/3
encoder.layer.N.attention.output.dense.*                    blocks.N.proj.*
encoder.layer.N.attention.output.LayerNorm.*                blocks.N.norm1.*
encoder.layer.N.intermediate.dense.*                        blocks.N.fc1.*
encoder.layer.N.output.dense.*                              blocks.N.fc2.*
encoder.layer.N.output.LayerNorm.*                          blocks.N.norm2.*
pooler.*                                                    -
embeddings.position_ids                                     -
"""
# CheXbert: a BERT and 14 linear heads, saved from a DataParallel module.
CHEXBERT_NAMES = f"""{under("bert.", BERT_NAMES, "bert.")}
linear_heads.*                                              heads.*
"""
# CXR-BERT: a BERT, the head it was pretrained with, and the projection to the image's space.
CXR_BERT_NAMES = f"""{under("bert.", BERT_NAMES, "bert.")}
cls_projection_head.dense_to_hidden.*                       projection.0.*
cls_projection_head.LayerNorm.*                             projection.2.*
cls_projection_head.dense_to_output.*                       projection.3.*
cls.*                                                       -
"""
# BioViL's image side: torchvision's ResNet-50 without ImageNet's classes, and a projection.
BIOVIL_NAMES = """
encoder.encoder.fc.*                                        -
encoder.encoder.*                                           resnet.*
projector.model.*                                           projector.*
"""
# BioViL-T's: also what stands for a previous image; the pooler of two images is left out.
BIOVIL_T_NAMES = f"""{BIOVIL_NAMES}
encoder.backbone_to_vit.weight                              reduce.weight
encoder.missing_previous_emb                                missing_previous
encoder.vit_pooler.*                                        -
"""


# ---- which one is it? --------------------------------------------------------------------------------------------


class Layout(NamedTuple):
    """A published way of naming tensors: what it is, how to know it, how to translate it."""

    holds: str
    marks: tuple[str, ...]  # endings of names that together occur in no other layout
    translate: Translate


EMBEDDING, POSITIONS = "language_model.model.embed_tokens.weight", "embeddings.position_embedding.weight"
PROJECTOR, CXR_HEAD = "projector.model.0.weight", "cls_projection_head.dense_to_hidden.weight"
HF_MARKS = ("model.language_model.embed_tokens.weight", f"model.vision_model.{POSITIONS}")
either, wrapped = DINO + under("dinov2.", DINO), CHEXBERT_NAMES + under("module.", CHEXBERT_NAMES)

OURS = Layout("ours: UniX", ("layers.0.attn.und.qkv.weight",), translate_ours)
PUBLISHED = Layout("UniX as published", ("language_model.model.norm_moe_gen.weight",), translate_unix)
JANUS = Layout("Janus-Pro, original layout", (EMBEDDING, "vision_model.vision_tower.pos_embed"), translate_janus)
HF_JANUS = Layout("Janus-Pro, Hugging Face layout", HF_MARKS, translation(HF_JANUS_PRO))
KL_VAE = Layout("a KL autoencoder (kl-f16)", ("encoder.conv_in.weight", "post_quant_conv.weight"), translate_vae)
SIGLIP = Layout("SigLIP, Hugging Face layout", (POSITIONS,), translation(SIGLIP_NAMES))
DINOV2 = Layout("RadDino (DINOv2)", ("embeddings.cls_token",), translation(either))
CHEXBERT = Layout("CheXbert", ("linear_heads.13.weight",), translation(wrapped))
CXR_BERT = Layout("CXR-BERT, the aligner's text side", (CXR_HEAD,), translation(CXR_BERT_NAMES))
BIOVIL_T = Layout("BioViL-T's image side", ("encoder.missing_previous_emb", PROJECTOR), translation(BIOVIL_T_NAMES))
BIOVIL = Layout("BioViL's image side", ("encoder.encoder.conv1.weight", PROJECTOR), translation(BIOVIL_NAMES))
LAYOUTS = [OURS, PUBLISHED, JANUS, HF_JANUS, KL_VAE, SIGLIP, DINOV2, CHEXBERT, CXR_BERT, BIOVIL_T, BIOVIL]


def recognise(names: Iterable[str]) -> Layout | None:
    """The first layout all of whose marks end some name; None if there is none."""
    names = list(names)
    fits = (one for one in LAYOUTS if all(any(name.endswith(mark) for name in names) for mark in one.marks))
    return next(fits, None)
