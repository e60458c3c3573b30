"""A phantom is the same every time and everywhere."""

import hashlib

import numpy as np

from phantoms import dataset, truth
from phantoms.dataset import Phantoms, phantom
from phantoms.wording import write_report


def test_a_sample_is_the_same_every_time_and_its_neighbours_differ():
    a, b, c = phantom(0, 5), phantom(0, 5), phantom(0, 6)
    assert np.array_equal(a.image, b.image)
    assert (a.report, a.findings, a.view) == (b.report, b.findings, b.view)
    assert not np.array_equal(a.image, c.image)
    assert not np.array_equal(a.image, phantom(1, 5).image)


def test_truth_and_report_of_one_sample_are_those_on_record():
    """Data made on another machine, or by the next version, is the same data; change this line with intent only."""
    text = repr([(truth.truth(0, i), write_report(truth.truth(0, i), truth.streams(0, i)[2])) for i in range(20)])
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "7b16de97691a4a3d"


def test_even_phantoms_show_rare_findings_more_often():
    def frequency(phantoms):
        kinds = [{f.kind for f in truth.truth(0, index).findings} for index in phantoms.indices]
        return {kind: sum(kind in one for one in kinds) / len(kinds) for kind in truth.KINDS}

    plain, even = frequency(Phantoms(1000)), frequency(Phantoms(1000, even=True))
    assert even["nodules"] > 2.5 * plain["nodules"] and even["pacemaker"] > 1.15 * plain["pacemaker"]
    assert min(even.values()) > 0.04 > min(plain.values())


def test_an_even_phantom_is_the_one_of_its_index():
    phantoms = Phantoms(5, even=True)
    assert phantoms.indices == Phantoms(5, even=True).indices and len(set(phantoms.indices)) == 5
    one = phantom(0, phantoms.indices[3])
    assert phantoms.text(3) == (one.report, one.impression) and np.array_equal(phantoms.image(3), one.image)


def test_a_picture_is_rendered_once_and_again_when_the_code_changes(tmp_path, monkeypatch):
    rendered = []

    def counted(*arguments):
        rendered.append(arguments)
        return phantom(*arguments)

    monkeypatch.setattr(dataset, "phantom", counted)
    first = Phantoms(3, 32, cache=tmp_path).image(1)
    again = Phantoms(3, 32, cache=tmp_path).image(1)
    assert np.array_equal(first, again) and np.array_equal(first, phantom(0, 1, 32).image)
    assert rendered == [(0, 1, 32)] and len(list(tmp_path.iterdir())) == 1
    monkeypatch.setattr(dataset, "source_hash", lambda *_: "other code")
    assert np.array_equal(Phantoms(3, 32, cache=tmp_path).image(1), first)
    assert len(rendered) == 2 and len(list(tmp_path.iterdir())) == 2
