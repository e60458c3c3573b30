"""What hi-ml-multimodal itself computes for BioViL-T, on weights by rule: written once, in an environment of its own.

    pip install torch torchvision 'timm<1.1' transformers==4.49.0 scikit-image SimpleITK pydicom scipy
    pip install --no-deps hi-ml-multimodal==0.2.2
    python tests/judges/biovil_t_reference.py VOCAB.TXT tests/judges/biovil_t_expected.json

VOCAB.TXT is bert-base-uncased's. The rule is in `published_files`, from which the test writes the same files.
"""

import json
import sys
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image

BERT = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
TEXTS = ["Small left pleural effusion.", "No acute cardiopulmonary abnormality!?", "Moderate cardiomegaly; edema"]
FILMS = [(600, 500, 4), (300, 700, 32), (448, 448, 150)]  # width, height, px of a blot


def tensor(name, shape):
    """Standard normals of RandomState(crc32(name)), scaled so that 50 layers neither vanish nor explode."""
    r = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(int(np.prod(shape))).reshape(shape)
    if name.endswith("num_batches_tracked"):
        return torch.tensor(7)
    if name.endswith("running_var"):
        values = 0.5 + np.abs(r)
    elif len(shape) == 1:
        norm = name.endswith(".weight")  # weights of one dimension are norms'; bn3 ends a residual block
        values = norm * (0.4 if ".bn3." in name else 1.0) + 0.02 * r
    else:
        values = 1.4 * r / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


def published_files(shapes):
    """(image side, text side) under their published names, from shapes {"image": {name: shape}, "text": ...}."""
    image, text = ({name: tensor(name, shape) for name, shape in shapes[side].items()} for side in ("image", "text"))
    text["cls.predictions.decoder.weight"] = text["bert.embeddings.word_embeddings.weight"]  # they are one tensor
    return image, text


def film(width, height, blot):
    grey = np.random.RandomState(blot).randint(20, 200, (height // blot, width // blot)).astype(np.uint8)
    return Image.fromarray(grey).resize((width, height), Image.Resampling.BICUBIC)


def main(vocabulary, out):
    import tempfile

    from health_multimodal.image import ImageInferenceEngine
    from health_multimodal.image.data.transforms import create_chest_xray_transform_for_inference
    from health_multimodal.image.model.model import ImageModel
    from health_multimodal.image.model.types import ImageEncoderType
    from health_multimodal.image.utils import TRANSFORM_RESIZE
    from health_multimodal.text import TextInferenceEngine
    from health_multimodal.text.model import CXRBertConfig, CXRBertModel, CXRBertTokenizer
    from health_multimodal.vlp import ImageTextInferenceEngine

    image_model = ImageModel(img_encoder_type=ImageEncoderType.RESNET50_MULTI_IMAGE, joint_feature_size=128)
    text_model = CXRBertModel(CXRBertConfig(**BERT)).eval()
    models = {"image": image_model, "text": text_model}
    shapes = {side: {n: list(t.shape) for n, t in model.state_dict().items()} for side, model in models.items()}
    for model, state in zip(models.values(), published_files(shapes), strict=True):
        model.load_state_dict(state)
    # get_image_inference and get_bert_inference, whose defaults are BioViL-T, without their downloads.
    transform = create_chest_xray_transform_for_inference(resize=TRANSFORM_RESIZE, center_crop_size=448)
    image_engine = ImageInferenceEngine(image_model=image_model, transform=transform)
    tokenizer = CXRBertTokenizer(vocab_file=vocabulary)
    text_engine = TextInferenceEngine(tokenizer=tokenizer, text_model=text_model)
    engine = ImageTextInferenceEngine(image_inference_engine=image_engine, text_inference_engine=text_engine)
    similarities, vectors = [], []
    with tempfile.TemporaryDirectory() as folder:
        for number, made in enumerate(FILMS):
            path = Path(folder) / f"{number}.png"
            film(*made).save(path)
            similarities.append([engine.get_similarity_score_from_raw_data(path, text) for text in TEXTS])
            vectors.append(image_engine.get_projected_global_embedding(path).tolist())
    texts = text_engine.get_embeddings_from_prompt(TEXTS, verbose=False).tolist()
    expected = {"similarity": similarities, "image": vectors, "text": texts, "shapes": shapes}
    Path(out).write_text(json.dumps(expected) + "\n")
    print(np.round(similarities, 3))


if __name__ == "__main__":
    main(*sys.argv[1:])
