"""What labels state: blanks, who wins over whom, kinds and unions of findings, and what is counted."""
import csv
import itertools

import numpy as np
import pytest

from medvlp_jax import experiment
from medvlp_jax.input import datasets, statements, targets
from medvlp_jax.input.check import check
from medvlp_jax.input.datasets import labels
from medvlp_jax.input.manifest import ManifestSource
from medvlp_jax.input.studies import Studies
from medvlp_jax.reports import aliases, vocab
from tests import golden, tiny
from tests.input.datasets.test_readers import ALL, CHEX, fill
from tests.input.test_manifest import unspecified, write

PLUS = "path_to_image,section_findings,section_impression\ntrain/patient1/study1/view1_frontal.jpg,There is atelectasis.,\n"


def said(example, *names) -> list[int]:
    """Value of each entity, at any position."""
    return [int(example["presence"][:, vocab.entity_index(name)].max()) for name in names]


def source_of(tmp_path, rows, **options):
    return ManifestSource(write(tmp_path, rows), "train", **options)


# --- blanks ---------------------------------------------------------------------------------------------------------------


def chexpert(tmp_path, values: dict, **options):
    """One row of train.csv with `values`, blank elsewhere, and a report of CheXpert Plus."""
    fields = ["CheXpert-v1.0/train/patient1/study1/view1_frontal.jpg", "Female", "68", "Frontal", "AP"]
    line = ",".join(fields + [values.get(name, "") for name in CHEX.strip().split(",")[5:]]) + "\n"
    root = fill(tmp_path, {"train.csv": CHEX + line, "valid.csv": CHEX, "df_chexpert_plus_1.csv": PLUS,
                           "train/patient1/study1/view1_frontal.jpg": None})  # fmt: skip
    return ManifestSource(datasets.read("chexpert", root), "all", root, **options)


def test_a_blank_of_chexpert_is_unknown_and_the_report_speaks(tmp_path):
    source = chexpert(tmp_path, {"Cardiomegaly": "1.0", "Edema": "-1.0", "Fracture": "0.0"})
    assert said(source[0], "atelectasis", "pneumothorax", "cardiomegaly", "edema", "fracture") == [1, -1, 1, 2, 0]
    assert source[0]["finding_labels"] == {"Cardiomegaly": 1, "Edema": -1, "Fracture": 0}


def test_blank_is_absent_where_it_is_asked_for_but_never_against_the_report(tmp_path):
    source = chexpert(tmp_path, {"Cardiomegaly": "1.0"}, blank_labels="absent")
    source.spaces["chexpert"] = statements.Space(frozenset({"Cardiomegaly", "Atelectasis", "Edema"}), True)
    assert said(source[0], "atelectasis", "cardiomegaly", "edema") == [1, 1, 0]
    assert source[0]["finding_labels"] == {"Cardiomegaly": 1, "Atelectasis": 0, "Edema": 0}
    assert source.read_labels(source.table[0]).conflicts == []  # a blank is no statement


@pytest.mark.parametrize("blank, want", [("unknown", -1), ("absent", 0)])
def test_the_switch_in_a_manifest(tmp_path, blank, want):
    rows = [{"labels": "Mass"}, {"absent": "Edema"}, {"labels": ""}]
    source = source_of(tmp_path, rows, blank_labels=blank)
    assert [said(source[i], "mass")[0] for i in range(3)] == [1, want, -1]  # a row that names nothing was not labelled
    assert [said(source[i], "edema")[0] for i in range(3)] == [want, 0, -1]
    assert ("Mass" in source[1]["finding_labels"]) == (blank == "absent")


def test_a_source_that_states_absences_has_no_complete_lists(tmp_path):
    """Its rows without a 0 are no complete lists either; those of another source are."""
    rows = [{"labels": "Mass", "source": "a"}, {"absent": "Edema", "source": "a"},
            {"labels": "Mass", "source": "b"}, {"labels": "Edema", "source": "b"}]  # fmt: skip
    source = source_of(tmp_path, rows)
    assert said(source[0], "edema") == [-1] and said(source[2], "edema") == [0]
    assert said(source_of(tmp_path, rows, closed_world="always")[0], "edema") == [0]


def test_values_are_checked_before_a_run():
    for key, value in (("blank_labels", "zeros"), ("label_precedence", "image"), ("closed_world", "yes")):
        config = tiny.run_config("mlip", **{f"data/{key}": value})
        with pytest.raises(ValueError, match=f"unknown data.{key} '{value}'; known: "):
            experiment.check_values(config)
        with pytest.raises(ValueError, match=f"unknown .*'{value}'; known: "):
            order = ("closed_world", "blank_labels", "label_precedence")
            statements.Rules()._replace(**{statements.Rules._fields[order.index(key)]: value}).check()


# --- who wins -------------------------------------------------------------------------------------------------------------

REPORT = "Small left pleural effusion. No pneumothorax. Possible pneumonia."
LEFT, U = vocab.position_index("left_pleural"), vocab.position_index("unspecified")


def conflicting(tmp_path, labeller, **options):
    row = {"report": REPORT, "absent": "Effusion", "labels": "Pneumothorax;Pneumonia;Mass", "labeller": labeller}
    return source_of(tmp_path, [row], **options)


@pytest.mark.parametrize("labeller, precedence, want", [
    ("automatic", "report", [1, 0, 2, 1]), ("", "report", [1, 0, 2, 1]), ("radiologist", "report", [0, 1, 1, 1]),
    ("automatic", "labels", [0, 1, 1, 1]),
])  # fmt: skip
def test_precedence(tmp_path, labeller, precedence, want):
    source = conflicting(tmp_path, labeller, label_precedence=precedence)
    assert said(source[0], "effusion", "pneumothorax", "pneumonia", "mass") == want
    kinds = dict(source.read_labels(source.table[0]).conflicts)
    assert kinds == {"effusion": statements.CONFLICTS[0], "pneumothorax": statements.CONFLICTS[1],
                     "pneumonia": statements.CONFLICTS[2]}  # fmt: skip
    assert source[0]["finding_labels"] == {"Effusion": 0, "Pneumothorax": 1, "Pneumonia": 1, "Mass": 1}


def test_a_label_that_agrees_leaves_the_reports_positions(tmp_path):
    row = {"report": REPORT, "labels": "Effusion", "labeller": "radiologist"}
    presence = source_of(tmp_path, [row])[0]["presence"]
    column = presence[:, vocab.entity_index("effusion")]
    assert np.flatnonzero(column == 1).tolist() == [LEFT]  # no second place for the location contrast


def test_the_makers_of_labels_are_known():
    assert statements.labeller({"source": "vindr"}) == statements.labeller({"source": "rsna"}) == "radiologist"
    assert statements.labeller({"source": "chestxray14"}) == "automatic" and statements.labeller({}) == "other"
    assert statements.labeller({"source": "padchest", "labeller": "Radiologist "}) == "radiologist"
    # by a laboratory, a registry, indexers
    assert set(datasets.READERS) - set(statements.OF_SOURCE) == {"covidx", "covid_rural", "openi"}


# --- kinds and unions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("relation, want", [
    (vocab.SAME, (0, 1, 2)), (vocab.NARROWER, (None, 1, 2)), (vocab.BROADER, (0, 2, 2)), (vocab.RELATED, (None, None, None)),
])
def test_what_passes_from_a_label_to_its_entity(relation, want):
    assert tuple(vocab.statement(relation, value) for value in range(3)) == want


@pytest.mark.parametrize("label, absent, present, uncertain", [
    ("COVID-19", {}, {"pneumonia": 1}, {"pneumonia": 2}), ("Pulmonary Edema", {"edema": 0}, {"edema": 1}, {"edema": 2}),
    ("Rib fracture", {}, {"fracture": 1}, {"fracture": 2}), ("Calcified Granuloma", {}, {"calcification": 1}, {}),
    ("Scoliosis", {}, {"tail_abnorm_obs": 1}, {}), ("Tuberculosis", {}, {"tail_abnorm_obs": 1}, {}),
    ("Nodule/Mass", {"nodule": 0, "mass": 0}, {"nodule": 2, "mass": 2}, {"nodule": 2}),
    ("Enlarged Cardiomediastinum", {"widen": 0}, {"widen": 2}, {}), ("Pleural Other", {"thicken": 0}, {"thicken": 2}, {}),
    ("Hydropneumothorax", {}, {"pneumothorax": 1, "effusion": 1}, {}), ("Foreign object", {}, {}, {}),
    ("atelectasis basal", {}, {"atelectasis": 1}, {}), ("Cardiomegaly/mild", {}, {"cardiomegaly": 1}, {}),
    ("hilar congestion", {}, {"congestion": 1}, {}), ("Other diseases", {}, {"tail_abnorm_obs": 1}, {}),
])  # fmt: skip
def test_labels_by_their_relation(tmp_path, label, absent, present, uncertain):
    rows = [{"absent": label}, {"labels": label}, {"uncertain": label}]
    source = source_of(tmp_path, rows)
    assert unspecified(source[0]) == absent
    assert present.items() <= unspecified(source[1]).items() and uncertain.items() <= unspecified(source[2]).items()
    if not present:
        assert unspecified(source[1]) == {}


def test_covidx_and_mixtures_never_make_pneumonia_absent(tmp_path):
    source = ManifestSource(datasets.read("covidx", fill(tmp_path, ALL["covidx"])), "all", tmp_path)
    values = {source[i]["finding_labels"]["COVID-19"]: said(source[i], "pneumonia")[0] for i in range(2)}
    assert values == {1: 1, 0: -1}
    assert targets.label({"COVID-19": 0}, "pneumonia") == -1 and targets.label({"COVID-19": 0}, "COVID-19") == 0
    assert targets.label({"COVID-19": 1}, "pneumonia") == 1 and targets.label({"Pneumonia": 0, "COVID-19": 0}, "pneumonia") == 0


def test_a_complete_list_implies_absence_of_entities_not_of_their_kinds_alone(tmp_path):
    rows = [{"labels": label} for label in ("Mass", "Rib fracture", "COVID-19", "Pneumonia", "Nodule/Mass", "No Finding")]
    source = source_of(tmp_path, rows)
    first = unspecified(source[0])
    assert first["pneumonia"] == 0 and "fracture" not in first  # no name of the list is all fractures
    assert first["mass"] == 1 and first["nodule"] == 0  # "Nodule/Mass" is not listed, so neither, but for what is
    assert unspecified(source[4]) == {"nodule": 2, "mass": 2, "pneumonia": 0, "normal": 0}
    assert source[4]["finding_labels"]["Mass"] == -1  # one of the two: not known to be absent
    assert unspecified(source[5])["pneumonia"] == 0 and source[0]["finding_labels"]["Nodule/Mass"] == 1


def test_doubt_of_a_union_does_not_contradict_the_report(tmp_path):
    row = {"report": "There is a nodule in the right upper lobe. No mass.", "labels": "Nodule/Mass", "labeller": "radiologist"}
    source = source_of(tmp_path, [row])
    assert said(source[0], "nodule", "mass") == [1, 0] and source.read_labels(source.table[0]).conflicts == []


def test_a_box_of_a_union_is_not_a_box_of_one_of_them(tmp_path):
    boxes = [{"label": name, "x": 1, "y": 2, "w": 3, "h": 4} for name in ("Nodule/Mass", "Rib fracture", "Pleural effusion")]
    assert [b[0] for b in source_of(tmp_path, [{"boxes": boxes}])[0]["boxes"]] == ["Nodule/Mass", "fracture", "effusion"]


# --- labels without entity ------------------------------------------------------------------------------------------------

VINDR = ("Aortic enlargement;Atelectasis;Calcification;Cardiomegaly;Clavicle fracture;Consolidation;Edema;Emphysema;"
         "Enlarged PA;ILD;Infiltration;Lung Opacity;Lung cavity;Lung cyst;Mediastinal shift;Nodule/Mass;Pleural effusion;"
         "Pleural thickening;Pneumothorax;Pulmonary fibrosis;Rib fracture;Other lesion;COPD;Lung tumor;Pneumonia;Tuberculosis;"
         "Other diseases;No finding").split(";")  # fmt: skip
# Terms of PadChest that were in no table.
ADDED = ("pulmonary mass;hilar congestion;bone metastasis;cyst;abscess;asbestosis signs;dextrocardia;esophagic dilatation;"
         "right sided aortic arch;Chilaiditi sign;cervical rib;lipomatosis;mediastinic lipomatosis;lepidic adenocarcinoma;"
         "mammary prosthesis;aortic endoprosthesis;nephrostomy tube;ventriculoperitoneal drain tube;double J stent;"
         "central vascular redistribution;non axial articular degenerative changes;pneumoperitoneo;unchanged;nipple shadow;"
         "pseudonodule;suboptimal study;surgery neck;end on vessel").split(";")  # fmt: skip


def test_all_labels_of_vindr_and_padchest_are_known():
    assert [name for name in (*VINDR, *ADDED) if not vocab.is_known(name)] == []
    assert [name for name in ("Gizmo", "", "/") if vocab.is_known(name)] == []
    for name in (*aliases.NO_ENTITY, *aliases.INCOMPLETE):
        assert vocab.is_known(name) and vocab.lookup(name) is None


def test_an_unchanged_report_is_no_complete_list(tmp_path):
    rows = [{"labels": "Mass;unchanged"}, {"labels": "nipple shadow"}, {"labels": "Edema"}, {"labels": "normal"}]
    source = source_of(tmp_path, rows)
    assert unspecified(source[0]) == {"mass": 1}
    assert unspecified(source[1]) == {"mass": 0, "edema": 0}  # and nothing about normal
    assert unspecified(source[2]) == {"mass": 0, "edema": 1, "normal": 0}


def test_what_an_unknown_label_costs_is_counted(tmp_path):
    rows = [{"labels": "Mass;Gizmo"}, {"labels": "Edema;Gizmo"}, {"labels": "Mass"}, {"labels": "Mass;nipple shadow"},
            {"labels": "Gizmo", "report": "The lungs are clear."},
            {"labels": "Effusion", "report": "There is no pleural effusion."}]  # fmt: skip
    summary = check(source_of(tmp_path, rows))[1]
    assert summary.withheld == {"Gizmo": 2} and summary.unknown_labels == {"Gizmo": 3}
    assert summary.conflicts == {"effusion": 1} and summary.compared == 2
    assert "rows that imply no absences because of them: 'Gizmo' (2)" in str(summary)
    assert "report and labels differ, of 2 rows with both: 'effusion' (1)" in str(summary)


def test_options_change_the_fingerprint(tmp_path):
    path = write(tmp_path, [{"labels": "Mass", "report": "There is no mass."}])
    options = itertools.product(("auto", "always"), ("unknown", "absent"), ("report", "labels"))
    assert len({ManifestSource(path, "train", closed_world=c, blank_labels=b, label_precedence=p).fingerprint
                for c, b, p in options}) == 8  # fmt: skip


def test_a_row_with_doubt_alone_is_of_use(tmp_path):
    """Three of 200 rows of CheXpert's training table say no more, since blanks are unknown."""
    rows = [{"uncertain": "Edema"}, {"labels": "Mass"}, {"labels": "nipple shadow"}]
    assert check(source_of(tmp_path, rows), max_bad_share=0.5)[1].skipped == {"only unknown labels": [3]}


def test_the_studys_report_wins_over_the_automatic_label_of_another_view(tmp_path):
    rows = [{"study_id": "1", "report": "No pleural effusion.", "view": "PA"},
            {"study_id": "1", "labels": "Effusion;Mass", "view": "LATERAL"}]  # fmt: skip
    source = Studies(source_of(tmp_path, rows))
    lateral = next(e for e in (source.draw(0, np.random.default_rng(i)) for i in range(50)) if "1.png" in e["id"])
    assert said(lateral, "effusion", "mass") == [0, 1]


def test_real_rows_of_chexpert():
    """200 rows as published: what they leave blank is in no column."""
    path = golden.shared("layouts", "chexpert_train.csv")
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    names = list(rows[0])[5:]
    for row in rows:
        made = labels._chexpert_row(row, names, set())
        columns = (("labels", 1.0), ("absent", 0.0), ("uncertain", -1.0))
        listed = {n: v for column, v in columns for n in made[column].split(";") if n}
        assert listed == {n: float(row[n]) for n in names if row[n]}
