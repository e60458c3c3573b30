# %% [markdown]
# # Lesson 5: to freeze or not
#
# The paper freezes the und branch while the gen branch learns to draw. Its Table 5 says why: trained on drawings, the
# und branch forgets to read, and reading examples beside the drawings slow that down. Here is the same question in
# miniature: three short runs from one start, then you read their reports.
#
# | paper, Table 5 | reading : drawing | reading, F1 | drawing, Fréchet distance (less is better) |
# |---|---|---|---|
# | gen alone | 0 : 1 | 36.0 | 62.1 |
# | both | 1 : 1 | 29.5 | 65.7 |
# | both | 0 : 1 | 6.3 | 74.8 |
#
# *A research and teaching tool, not a medical device. The model here knows phantoms only, rendered by a program.*

# %% setup
import classroom

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image

import experiments
from checks import lesson_5 as check
from evaluation.metrics import derangement
from evaluation.phantom import score_reading
from phantoms.dataset import phantom
from sample import draw, load_model, read
from weights import load_checkpoint

# %% [markdown]
# ## What reads before
#
# The start is the shipped und branch, and a gen branch that is its copy and knows nothing of drawing (lesson 4). It
# reads well. These films are of seed 1; nothing trains on them.

# %%
unseen = [phantom(1, index) for index in range(32)]
films = [Image.fromarray(p.image) for p in unseen]
beginning = experiments.before_drawing()
before = read(load_model(beginning, "cpu", torch.float32), films)
looked_at = (0, 1, 9, 12)
classroom.show(
    [unseen[i].image for i in looked_at], [unseen[i].impression.replace(". ", ".\n") for i in looked_at], inches=2.4
)
for i in looked_at:
    print("report:", before[i].split("IMPRESSION:")[-1].strip())

# %% [markdown]
# ## Who moves?
#
# `train.py --train gen` (the default) trains the gen branch alone. `--train both` trains the und branch, too.
# "Frozen" is a claim about bits, so it can be checked.
#
# ### Exercise 1
#
# Write a function that names the parameters that differ between two models, in any bit.


# %% exercise: moved
def moved(before, after):
    """Two UniX of one size -> the set of names of the parameters that differ."""
    ...


# %%
print(check.moved(moved))

# %% [markdown]
# ## A fair comparison
#
# `--mix OTHER:OWN` puts OTHER reading examples beside OWN drawing examples, and `--batch` counts both. If every run had
# a batch of 8, a mix of 1:1 would get half of the drawings, and would draw worse for that reason alone.
#
# ### Exercise 2
#
# How large must the batch be, so that each step has `drawings` drawing examples? Refuse with a ValueError what does not
# come out even: a mix of 1:3 cannot have 8 of them.


# %% exercise: batch for
def batch_for(mix, drawings):
    """mix: "OTHER:OWN", for example "1:2" -> the number of examples of both kinds in a step."""
    ...


# %%
print(check.batch_for(batch_for))

# %% [markdown]
# ## Three runs
#
# Each spends 60 steps of 8 drawing examples, from one start. About two minutes on two cores. The learning rate is seven
# times that of the reading in lesson 4: the paper's und branch moved for 75,000 steps, yours has 60. **Guess first:**
# will the reports of `both, 0:1` become worse a little, or nonsense? And its drawings?

# %%
common = ["--stage", 2, "--init", beginning, "--data", "phantom:240", "--steps", 60, "--lr", 7e-3, "--look-every", 60]
runs = {
    "gen alone": common + ["--train", "gen", "--batch", 8],
    "both, 1:1": common + ["--train", "both", "--mix", "1:1", "--batch", batch_for("1:1", 8)],
    "both, 0:1": common + ["--train", "both", "--mix", "0:1", "--batch", batch_for("0:1", 8)],
}
logs = experiments.train(runs)

# %%
start_model = load_checkpoint(beginning).model
for name in runs:
    changed = moved(start_model, load_checkpoint(experiments.run_folder(name)).model)
    und = {parameter for parameter, _ in start_model.und_parameters()}
    print(f"{name}: {len(changed & und)} of {len(und)} parameters of the und branch moved, {len(changed - und)} of gen")

# %% [markdown]
# ## Read what they write
#
# The same films as above. No number yet.

# %%
written = {"before": before}
for name in runs:
    written[name] = read(load_model(experiments.run_folder(name), "cpu", torch.float32), films, max_new_tokens=80)
for i in looked_at[1:]:
    print("TRUTH     ", unseen[i].impression)
    for name, reports in written.items():
        print(f"{name:10}", reports[i][:240])
    print()

# %% [markdown]
# **Question:** what is lost first: the words, the grammar, the order of the sections, or the film? Why is `lm_head`,
# which turns the last hidden state into words, not to blame in `both, 0:1`? (Who asks for words there? Does it move?)
#
# ## And the numbers
#
# *control* holds each report against another film. The prompt gain (lesson 4) is of 32 phantoms.

# %%
partner = derangement(len(unseen), seed=0)
print(f"{'':12}{'reading, micro F1':>19}{'control':>9}{'error, last 10 steps':>22}{'prompt gain at 0.7':>20}")
for name, reports in written.items():
    scores = score_reading(unseen, reports, partner)
    line = f"{name:12}{scores['generated']['micro'][0]:19.2f}{scores['control']['micro'][0]:9.2f}"
    if name in logs:
        error = np.mean([record["mse"] for record in logs[name][-10:]])
        gain = experiments.prompt_gain(load_checkpoint(experiments.run_folder(name)), seed=1, n=32, size=128)[0.7]
        line += f"{error:22.3f}{gain:20.1%}"
    print(line)

# %%
prompt, noise = "Severe cardiomegaly. Large left pleural effusion.", 5
pictures = [
    draw(load_model(experiments.run_folder(name), "cpu", torch.float32), [prompt], [noise], 128, 12)[0] for name in runs
]
classroom.show(pictures, list(runs), inches=2.2)

# %% [markdown]
# What was measured in the run that is printed here:
#
# - **gen alone** reads as before, to the letter: not one bit of the und branch has moved.
# - **both, 0:1** has fallen from 0.94 to 0.76, and the number hides how. The findings are mostly still named, but the
#   language falls apart: "is is lungs are clear is clear is". Nothing asked for words, so nothing kept them.
# - **both, 1:1** has 0.69, not far from it, and fails the other way. Its sentences are whole, and some of what they say
#   is not on the film. At this rate the und branch learns to report anew, and it begins as in lesson 4: it talks before
#   it looks.
# - **Drawing:** after 60 steps the three runs are alike. The error is 1.60 to 1.62, the prompt gain about 0.
#
# So two runs with nearly one F1 need not have one fault: read the reports. And this is no copy of Table 5. At a rate of
# 1e-3, after 500 steps of 16 drawings, the F1 was 0.925 for gen alone, 0.900 for 1:1 and 0.303 for 0:1
# (`docs/results.md`): there, as in the paper, reading examples kept most of the reading.
#
# ## Experiment: can it be brought back?
#
# Nobody has measured this. Take the run that forgot and give it stage 1 again for a few steps: does reading return
# faster than it was learnt? Is it the old reading, or a new one? And what has become of the drawing, which was trained
# beside another und branch?

# %%
again = ["--stage", 1, "--init", experiments.run_folder("both, 0:1"), "--data", "phantom:240", "--batch", 8]
# experiments.train({"brought back": again + ["--steps", 20, "--look-every", 20]})
