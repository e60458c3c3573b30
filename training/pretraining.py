"""What stands in for published weights: the losses of stages vae and vit, and of texts alone in stage 1.

The paper starts from kl-f16, SigLIP and a language model. Where nothing can be downloaded, these losses make an
autoencoder, an eye and a language from nothing. `walk` alone goes beyond the paper (training/reflow.py).
"""

import torch
import torch.nn.functional as F

import flow
from losses import Batch, StageLoss, token_loss
from training.discriminator import adversarial_loss
from vae import sample_posterior


class EveryStageLoss(StageLoss):
    """`StageLoss`, and the losses of the other kinds of example. heads: also "phrases" (stage vit) and, with a weight
    `adversarial`, "discriminator" (stage vae)."""

    def __init__(self, *args: object, adversarial: float = 0.0, **options: object) -> None:
        super().__init__(*args, **options)
        self.adversarial = adversarial
        self.loss_of |= {"rebuild": self.rebuild, "see": self.see, "recite": self.recite, "walk": self.walk}

    def rebuild(self, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """L1 + squares + detail + KL, and the discriminator's part.

        The detail term stands in for latent-diffusion's perceptual and adversarial losses, which need a second network:
        an L1 on every band of a Laplacian pyramid (Bojanowski et al. 2018). A rib edge or a catheter is a small part of
        the plain L1 but all of a fine band, so blurring it away becomes expensive. The squares weigh the few pixels of
        which much is lost, such as those of a thin tube at half its contrast, to which an L1 is nearly blind.
        """
        vae, images = self.vae, self.vae.preprocess(batch.image).to(self.model.compute_dtype)
        mean, log_variance = (each.float() for each in vae.posterior(images))
        latent = sample_posterior(mean, log_variance, batch.posterior_noise)
        decoded = vae.decoder(vae.post_quant_conv(latent.to(images.dtype))).float()
        error = decoded - images.float()
        l1, square, detail = error.abs().mean(), error.square().mean(), torch.zeros((), device=images.device)
        for _ in range(3):  # the pyramid is linear: bands of the error are errors of the bands
            coarse = F.avg_pool2d(error, 2)
            detail = detail + (error - F.interpolate(coarse, scale_factor=2, mode="nearest")).abs().mean()
            error = coarse
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=(1, 2, 3)).mean()
        parts = {"l1": l1, "square": square, "detail": detail, "kl": kl}
        loss = l1 + 150 * square + 2 * detail + 1e-6 * kl
        if self.adversarial and torch.is_grad_enabled():
            judge, last = self.heads["discriminator"], vae.decoder.conv_out.weight
            against, more = adversarial_loss(judge, decoded, images, loss, last, self.adversarial)
            loss, parts = loss + against, parts | more
        return loss, parts

    def see(self, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """What stands in for SigLIP's pretraining: which phrases will the report use? (Joulin et al. 2016)

        A language model that starts from nothing first learns to talk without looking; predicting all phrases at once,
        from the average and the maximum over the patches, teaches the ViT to see without running a language model.
        """
        known = ~batch.phrases.isnan()
        logits, phrases = self.phrase_logits(batch)[known], batch.phrases[known]
        loss = F.binary_cross_entropy_with_logits(logits, phrases, reduction="sum")
        return loss / max(1, batch.terms()), {}

    def phrase_logits(self, batch: Batch) -> torch.Tensor:
        """(B, phrases) float32."""
        pixels = self.model.vit.preprocess(batch.image).to(self.model.compute_dtype)
        patches = self.model.vit(pixels).float()
        return self.heads["phrases"](torch.cat([patches.mean(dim=1), patches.amax(dim=1)], dim=1))

    def recite(self, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Language modelling on impressions alone, laid out as the prompts of a drawing. Without it, an LLM that starts
        from nothing would meet a text that follows no image for the first time when it is frozen."""
        T = batch.text_ids.shape[1]
        mask = torch.ones(T, T, dtype=torch.bool, device=batch.text_ids.device).tril()
        position_ids = torch.arange(T, device=batch.text_ids.device)[None]
        hidden, _, _ = self.model.run_layers(self.model.embed(batch.text_ids), None, position_ids, mask)
        return token_loss(self.model, hidden, batch.targets).mean(), {}

    def walk(self, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Eq. 2 on lines of the model's own (training/reflow.py)."""
        with torch.no_grad():
            prompt = self.model.read_prompt(batch.prompts)
        x_t = flow.interpolate(batch.latents, batch.noise, batch.t)
        v = self.model.velocity(x_t, batch.t, prompt)
        return flow.velocity_error(v, batch.latents, batch.noise).mean(), {}
