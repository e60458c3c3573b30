#!/usr/bin/env bash
# The two sheets of the README, drawn by the shipped weights: one prompt from four seeds, and the fourteen observations.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${TO:=assets}"
python sample.py "Moderate cardiomegaly. Small left pleural effusion." --n 4 --out "$TO/drawn.png" "$@"
python sample.py "Widened mediastinum." "Severe cardiomegaly." "Hazy right mid lung opacity." "Left upper lobe mass." \
    "Severe pulmonary edema." "Right upper lobe consolidation." "Left lower lobe pneumonia." \
    "Moderate right basilar atelectasis." "Large left pneumothorax." "Moderate right pleural effusion." \
    "Left lateral pleural thickening." "Displaced right rib fractures." "Left chest wall pacemaker in place." \
    "No acute cardiopulmonary abnormality." --out "$TO/observations.png" "$@"
