# %% [markdown]
# # Lesson 6: does it show what was asked?
#
# A picture can look like a chest and still show something else than its prompt. In this lesson you judge 48 drawings
# with a judge that knows the truth, and then you judge the judge: controls, ceilings, intervals, and your own eyes. You
# fool a famous measure of reports. You look for pictures that were learnt by heart.
#
# *A research and teaching tool, not a medical device. The model here knows phantoms only, rendered by a program.*

# %% setup
import classroom

import re

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image

from checks import lesson_6 as check
from common.files import FAST_ADAPTER
from common.observations import OBSERVATIONS
from common.sampling import FAST
from evaluation import metrics
from evaluation.baselines import constant_text, shuffled
from evaluation.image import memorisation
from evaluation.metrics import derangement
from judges.classifier import judge, shown, truth_array
from judges.trained_classifier import load_classifier
from phantoms.dataset import Phantoms, phantom
from reports.labeler import label_reports
from sample import draw, load_model, read

# %% [markdown]
# ## Prompts whose truth is known
#
# A program renders a phantom, so we know what it shows. 48 of them, seed 1, lend us their impressions as prompts.
# The model never trained on this seed.

# %%
phantoms = [phantom(1, index) for index in range(48)]
prompts = [p.impression for p in phantoms]
real = np.stack([p.image for p in phantoms])
truth = truth_array(phantoms)  # (48, 14) bool
lines = [prompt.replace(". ", ".\n") for prompt in prompts]
classroom.show(real[:4], lines[:4], inches=2.2)

# %% [markdown]
# Now the model draws from the same words. It never sees the phantoms' pictures. It draws by the four passes of `python
# sample.py --fast`, which the judge finds as good as the full sampler's 33 (`docs/results.md`).

# %%
unix = classroom.checkpoint()
fast = load_model(classroom.SHIPPED, "cpu", torch.float32, classroom.SHIPPED / FAST_ADAPTER)
drawn = draw(fast, prompts, range(48), 256, **FAST)
classroom.show(drawn[:12], lines[:12], columns=4, inches=2.1)

# %% [markdown]
# **Before any number:** go through the twelve, and write down for each whether it shows all of its prompt. Keep the
# list.
#
# ## A judge
#
# A small convolutional network was trained on phantoms of seed 2, and never saw a picture of the model. For each
# picture it gives 14 probabilities, and each of the 14 observations has a threshold.

# %%
classifier = load_classifier()
probabilities, features = judge(classifier, drawn)
seen = shown(classifier, probabilities)  # (48, 14) bool
real_probabilities, real_features = judge(classifier, real)
seen_in_real = shown(classifier, real_probabilities)

# %% [markdown]
# ### Exercise 1
#
# Most films lack most findings, so a judge that never sees anything would be right nine times in ten. F1 forgives no
# silence: for each observation $F_1 = 2TP / (2TP + FP + FN)$. Write the macro F1: the mean over the observations. An
# observation that was neither asked for nor seen has no F1 (0 / 0) and does not count.


# %% exercise: macro f1
def macro_f1(truth, seen):
    """truth and seen: (N, observations) bool -> a number in [0, 1]."""
    ...


# %%
print(check.macro_f1(macro_f1))

# %% [markdown]
# One number alone says nothing. It needs two others beside it:
#
# - the *control*: the same pictures, held against other prompts. What is left when nobody listens?
# - the *ceiling*: the judge on the phantoms themselves. Nobody can be scored above what the judge can see.

# %%
partner = derangement(48, seed=1)  # a permutation that leaves nobody in place
print(f"accuracy of a judge that never sees anything: {(~truth).mean():.3f}")
print(f"macro F1: drawn {macro_f1(truth, seen):.3f}, control {macro_f1(truth, seen[partner]):.3f},", end=" ")
print(f"ceiling {macro_f1(truth, seen_in_real):.3f}")

# %% [markdown]
# ### Exercise 2
#
# Would 48 other prompts give the same number? The bootstrap asks the 48 that we have: choose 48 of them with
# replacement, score, repeat, and take the middle 95 % of the scores. `rng.integers(N, size=N)` gives N numbers below N.


# %% exercise: interval
def interval(score, truth, seen, rng, repeats=500):
    """score(truth, seen) -> a number. Returns the 2.5th and the 97.5th percentile of the resampled scores."""
    ...


# %%
print(check.interval(interval))

# %%
rng = np.random.default_rng(0)
rows = {"drawn": seen, "control": seen[partner], "ceiling": seen_in_real}
scores = {name: (macro_f1(truth, row), interval(macro_f1, truth, row, rng)) for name, row in rows.items()}
plt.figure(figsize=(5, 1.8))
for height, (name, (value, (low, high))) in enumerate(scores.items()):
    plt.plot([low, high], [height, height], color="grey")
    plt.plot(value, height, "o")
    print(f"{name:8} {value:.3f}, 95 % interval {low:.3f} to {high:.3f}")
plt.yticks(range(3), scores)
plt.ylim(-0.6, 2.6)
plt.xlabel("macro F1")
plt.show()

# %% [markdown]
# **Question:** the interval is wide. How many prompts make it half as wide? `docs/results.md` has 500: compare.
#
# Which observations are drawn as asked, and which are not?

# %%
each = metrics.f1_scores(truth, seen).per_class
for name, value, count in sorted(zip(OBSERVATIONS, each, truth.sum(axis=0)), key=lambda row: -row[1]):
    print(f"{name:28} {value:5.2f}  ({count} asked for)")

# %% [markdown]
# ## Fool BLEU
#
# Reports are often scored by the words that they share with the true one. BLEU-4 counts common runs of one to four
# words. Here are the reports that the model writes about the phantoms, and two that see nothing: the same reports,
# exchanged between films, and one text for every film, chosen from training reports for its BLEU.

# %%
reports = [p.report for p in phantoms]
written = read(unix, [Image.fromarray(image) for image in real])
training = Phantoms(400)
one_text = constant_text([training.text(i)[0] for i in range(400)], metrics.tokenize)
print("one text for every film:", one_text)

# %% [markdown]
# ### Exercise 3
#
# Fool it. Change a true report so that it says the opposite in almost the same words: its findings gone, BLEU-4 above
# 0.7. The labeler (`reports/labeler.py`) reads what a report claims. Two reports to practise on:

# %% setup
practice = [Phantoms(100, seed=1).text(index)[0] for index in (0, 8)]
print(*practice, sep="\n\n")


# %% exercise: lie
def lie(report):
    """A true report -> one of almost the same words that denies what is there."""
    ...


# %%
print(check.lie(lie))


# %%
def report_scores(texts):
    """BLEU-4, and micro F1 of what the texts claim."""
    bleu = metrics.bleu_from_counts(metrics.bleu_counts(reports, texts))[:, 3].mean()
    claimed = np.isin(label_reports(texts), (1, -1))
    return bleu, metrics.f1_scores(truth, claimed).micro


answers = {
    "the model": written,
    "the model, films exchanged": shuffled(written),
    "one text for every film": [one_text] * 48,
    "your lie": [lie(report) for report in reports],
}
print(f"{'':28}{'BLEU-4':>8}{'micro F1':>10}")
for name, texts in answers.items():
    bleu, f1 = report_scores(texts)
    print(f"{name:28}{bleu:8.2f}{f1:10.2f}")

# %% [markdown]
# **Question:** by BLEU alone, whom would you hire? And what does one text score on real films, most of which show
# nothing? (`python -m evaluation.baselines` makes that table for a real data set; the project prints it beside every
# score of reports.)
#
# ## Judge against eye
#
# The judge is a network as well. Three pictures, each beside the phantom that lent the prompt. Above them stands what
# the judge misses and what it sees that nobody asked for. Look first: do you agree?


# %%
def verdict(i):
    """What the judge says of picture `i` that the prompt does not, in words."""
    missed = [OBSERVATIONS[k] for k in np.flatnonzero(truth[i] & ~seen[i])]
    extra = [f"{OBSERVATIONS[k]} ({probabilities[i, k]:.2f})" for k in np.flatnonzero(seen[i] & ~truth[i])]
    return f"missed: {', '.join(missed) or 'nothing'}\nunasked: {', '.join(extra) or 'nothing'}"


for i in (33, 18, 45):
    classroom.show([drawn[i], real[i]], [f"{i}: {lines[i]}\n{verdict(i)}", "the phantom"], inches=2.5)

# %% [markdown]
# What we saw in the run that is printed here:
#
# - **33.** The judge sees the consolidation, and pneumonia as well. We see one dense area, where it was asked for, and
#   no second one. What the judge does not complain about is its edge: the phantom's is straight, this is not.
# - **18.** The judge is content. The edema is there, and the line. But the left apex is smooth: the calcified
#   thickening that was asked for there is missing, and bright meshes lie at the *right* shoulder. The judge's label
#   "Pleural Other" has no side.
# - **45.** The judge sees the mass, and is certain of pneumonia as well. We see one shape of the right size in the
#   right place, but ragged and with a dark hole, where a phantom's mass is round and even. A poor mass or a good
#   pneumonia? A list of fourteen words has no third answer.
#
# The first cost the model a point that it had earned, the second gave it one that it had not, and about the third one
# may argue. **Look for another one**, for example at 7, 39 and 42, or in your own list from the beginning.

# %% [markdown]
# ## Learnt by heart?
#
# A model that stores its training pictures would score well everywhere above. So look for the nearest training
# picture, in the judge's features. Unseen phantoms tell what is near: one in a hundred of them is nearer to a training
# picture than `near`. And a *planted* copy, a training picture that only went through the autoencoder, shows that the
# search finds what it looks for.

# %%
train = np.stack([phantom(0, index).image for index in range(600)])
_, train_features = judge(classifier, train)
with torch.no_grad():
    pixels = unix.vae.preprocess(torch.from_numpy(train[7:8]))
    copy = unix.vae.postprocess(unix.vae.decode(unix.vae.encode(pixels))).numpy()
suspects = np.concatenate([drawn, copy])
_, suspect_features = judge(classifier, suspects)
found = memorisation(real_features, suspect_features, train_features)
print(
    f"near is {found['near']:.2f}; median of unseen {found['median_unseen']:.2f}, of drawn {found['median_drawn']:.2f}"
)
print(f"nearer than that: {[int(i) for i in np.flatnonzero(found['drawn'] < found['near'])]} (48 is the planted copy)")
closest = np.argsort(found["drawn"])[:4]
pairs = np.stack([suspects[closest], train[found["index"][closest]]])
captions = [f"picture {i}, at {found['drawn'][i]:.2f}" for i in closest]
captions += [f"training picture {found['index'][i]}" for i in closest]
classroom.show(pairs.reshape(-1, 256, 256), captions, columns=4, inches=1.8)

# %% [markdown]
# In the run that is printed here the planted copy is found, and one drawing, 28. **Is it a copy?** Heart, ribs and arms
# lie nearly as in the training picture, the vessels do not. Of unseen phantoms one in a hundred is as near, so one
# drawing in 48 proves nothing; normal chests are alike because they are normal. Two limits: we looked at 600 of 16,000
# training phantoms, and a program renders these without end. On a few thousand real films, shown many times, the answer
# may be another.
#
# ## What none of this says about patients
#
# - A program renders the films. It knows seventeen kinds of finding, each rendered by one rule. A patient follows
#   no rule, often has several diseases at once, and some that have no name here.
# - Judge, labeler and model know the same phantoms. They may share a mistake, and then every score is high.
# - The truth of a phantom is a list. The truth of a film is what becomes of the patient, and two radiologists differ.
# - F1 weighs a missed pneumothorax like a missed healing fracture. A patient does not.
# - A high score on 48 prompts says nothing about the prompt you will type next.
#
# **For the room:** what would you have to measure before a generated film may be used to train somebody else's model?
#
# ## Experiment: does the judge like what you like?
#
# Guidance pushes a picture towards its prompt. Draw 8 prompts with guidance 1, 2 and 5. Does the judge's score rise?
# And do the pictures get better, to your eye? Choose blind: let a neighbour shuffle them. Nobody wrote down the answer.

# %%
for guidance in (1.0, 2.0, 5.0):
    pictures = draw(unix, prompts[:8], seeds=range(8), size=256, guidance=guidance, steps=12)
    seen_now = shown(classifier, judge(classifier, pictures)[0])
    print(f"guidance {guidance:g}: micro F1 of 8 {metrics.f1_scores(truth[:8], seen_now).micro:.2f}")
    classroom.show(pictures, columns=8, inches=1.3)
