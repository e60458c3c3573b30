"""What is asked about a film, in which wording, and the names that stand before a report."""

from reports import questions
from reports.questions import observations_of, split_observations


def test_the_question_is_what_the_weights_know():
    assert questions.default_question("plain") == questions.DEFAULT_QUESTION
    assert questions.default_question("plain", impression=True) == questions.SHORT_QUESTION
    published = "As an imaging expert, review this X-ray and share the {}."
    assert questions.default_question("published") == published.format("FINDINGS and IMPRESSION")
    assert questions.default_question("published", impression=True) == published.format("IMPRESSION")


def test_names_are_what_a_report_affirms_or_suspects_and_are_split_from_it_again():
    report = "FINDINGS: Cardiomegaly. Possible edema. No effusion. IMPRESSION: Big heart."
    names = observations_of(report)
    assert names == "OBSERVATIONS: Cardiomegaly, Edema."
    assert split_observations(f"{names} {report}") == (names, report)
    assert split_observations(report) == ("", report)
    assert split_observations(names) == (names, "")
    assert observations_of("FINDINGS: Scoliosis of the spine.") == "OBSERVATIONS: Other Finding."
