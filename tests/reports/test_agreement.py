"""What several reports agree on, counted by hand."""

from reports.agreement import agreement_lines

REPORTS = [
    "Small left pleural effusion. Mild cardiomegaly.",
    "Left pleural effusion. No cardiomegaly.",
    "Bilateral pleural effusions. Possible pneumonia.",
    "No pleural effusion or pneumothorax.",
]


def test_lines_name_the_side_and_the_surest_first():
    assert agreement_lines(REPORTS) == [
        "Pleural Effusion: 3 of 4 (left 2, bilateral 1)",
        "Cardiomegaly: 1 of 4",
        "No Finding: 1 of 4",
        "Pneumonia: 0 of 4 (1 more: possible)",
    ]
    assert agreement_lines(REPORTS[:2]) == ["Pleural Effusion left: 2 of 2", "Cardiomegaly: 1 of 2"]
    assert agreement_lines(["Possible edema."]) == ["Edema: 0 of 1 (1 more: possible)"]
