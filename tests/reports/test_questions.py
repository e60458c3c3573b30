"""What is asked about a film, in which wording, and the names that stand before a report."""

from reports import questions
from reports.questions import observations_of, without_observations


def test_the_question_is_what_the_weights_know():
    assert questions.default_question("plain") == questions.DEFAULT_QUESTION
    published = "As an imaging expert, review this X-ray and share the {}."
    assert questions.default_question("published") == published.format("FINDINGS and IMPRESSION")


def test_names_are_what_a_report_affirms_or_suspects_and_are_split_from_it_again():
    report = "FINDINGS: Cardiomegaly. Possible edema. No effusion. IMPRESSION: Big heart."
    names = observations_of(report)
    assert names == "OBSERVATIONS: Cardiomegaly, Edema."
    assert without_observations(f"{names} {report}") == without_observations(report) == report
    assert without_observations(names) == names
    assert observations_of("FINDINGS: Scoliosis of the spine.") == "OBSERVATIONS: Other Finding."
