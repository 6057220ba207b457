"""Every ready mapping on tables with the header of its set and awkward rows of our own."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fedmed.base.errors import UserError
from fedmed.config import Data, parse
from fedmed.config.sources import MAPPINGS
from fedmed.data.cohort import Cohort
from fedmed.data.sources import load
from fedmed.data.sources.mappings import mapping


def read(source: str, **keys: Any) -> Cohort:
    """Load with keys as in a file; paths may be Path objects."""
    given = {key: str(value) if isinstance(value, Path) else value for key, value in keys.items()}
    return load(Data.model_validate({"source": source} | given))


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 10), 128, dtype=np.uint8)).save(path)


@pytest.mark.parametrize("name", MAPPINGS)
def test_every_mapping_has_its_module(name: str) -> None:
    module = f"fedmed.data.sources.mappings.{name.replace('-', '_')}"
    assert getattr(mapping(name), "__module__", "") == module


def test_nih_data_entry(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "00000001_000.png")
    picture(tmp_path / "images" / "images_002" / "images" / "00000002_000.png")
    picture(tmp_path / "images" / "00000003_000.png")
    entry = tmp_path / "Data_Entry_2017.csv"
    entry.write_text(
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,"
        "View Position,OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],\n"
        "00000001_000.png,Edema|Pneumonia,0,1,058Y,M,PA,2682,2749,0.143,0.143,\n"
        "00000002_000.png,No Finding,0,2,414,F,AP,2894,2729,0.143,0.143,\n"
        "00000003_000.png,Effusion,0,3,81,F,PA,2500,2048,0.168,0.168,\n"
    )
    keys = {"path": entry, "images": tmp_path / "images", "mapping": "nih-chestxray14"}
    with pytest.raises(UserError, match=r"set data\.target to one of: Atelectasis, .*, Hernia"):
        read("table", **keys)
    with pytest.raises(UserError, match=r"data\.target = 'pneumonia' is no label"):
        read("table", target="pneumonia", **keys)
    cohort = read("table", target="Pneumonia", **keys)
    assert cohort.table["label"].tolist() == [1, 0, 0]
    assert cohort.table["age"].fillna(-1).tolist() == [58, -1, 81]
    assert cohort.table["image"].iloc[1] == "images_002/images/00000002_000.png"
    assert "split" not in cohort.table.columns
    (tmp_path / "test_list.txt").write_text("00000003_000.png\n00000002_000.png\n")
    split = read("table", target="Pneumonia", **keys).table["split"].tolist()
    assert split == ["train", "test", "test"]


CHEXPERT = (
    "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Edema\n"
    "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg,Female,68,Frontal,AP,1.0,\n"
    "CheXpert-v1.0-small/train/patient00002/study2/view2_lateral.jpg,Male,87,Lateral,,,1.0\n"
    "CheXpert-v1.0-small/train/patient00003/study1/view1_frontal.jpg,Unknown,0,Frontal,PA,,-1.0\n"
)


@pytest.mark.parametrize(
    ("uncertain", "labels"),
    [("negative", [0, 1, 0]), ("positive", [0, 1, 1]), ("ignore", [0, 1])],
)
def test_chexpert_and_its_uncertain_labels(
    tmp_path: Path, uncertain: str, labels: list[int]
) -> None:
    root = tmp_path / "CheXpert-v1.0-small"
    for line in CHEXPERT.splitlines()[1:]:
        picture(tmp_path / line.split(",")[0])
    (root / "train.csv").write_text(CHEXPERT)
    for images in (tmp_path, root):
        keys = {"path": root / "train.csv", "images": images, "mapping": "chexpert"}
        with pytest.raises(UserError, match=r"row 3: the label is -1 .*data\.uncertain"):
            read("table", target="Edema", **keys)
        table = read("table", target="Edema", uncertain=uncertain, **keys).table
        assert table["label"].tolist() == labels
        assert table["patient_id"].iloc[1] == "patient00002"
        assert table["view"].tolist()[:2] == ["AP", "lateral"]
        assert table["sex"].fillna("?").tolist()[:2] == ["F", "M"]


def test_mimic_joins_studies_images_and_splits(tmp_path: Path) -> None:
    labels = tmp_path / "mimic-cxr-2.0.0-chexpert.csv"
    labels.write_text(
        "subject_id,study_id,Edema,No Finding\n10000032,50414267,1.0,\n10000764,57375967,,1.0\n"
    )
    keys = {"path": labels, "images": tmp_path, "mapping": "mimic-cxr-jpg", "target": "Edema"}
    with pytest.raises(UserError, match=r"put mimic-cxr-2\.0\.0-metadata\.csv"):
        read("table", **keys)
    (tmp_path / "mimic-cxr-2.0.0-metadata.csv").write_text(
        "dicom_id,subject_id,study_id,ViewPosition\n"
        "aa,10000032,50414267,PA\nbb,10000032,50414267,LATERAL\ncc,10000764,57375967,AP\n"
    )
    with gzip.open(tmp_path / "mimic-cxr-2.0.0-split.csv.gz", "wt") as file:
        file.write(
            "dicom_id,study_id,subject_id,split\naa,50414267,10000032,train\n"
            "bb,50414267,10000032,train\ncc,57375967,10000764,validate\n"
        )
    for name in ("p10000032/s50414267/aa", "p10000032/s50414267/bb", "p10000764/s57375967/cc"):
        picture(tmp_path / "files" / "p10" / f"{name}.jpg")
    table = read("table", **keys).table
    assert table["label"].tolist() == [1, 1, 0]
    assert table["patient_id"].tolist() == ["10000032", "10000032", "10000764"]
    assert table["view"].tolist() == ["PA", "LATERAL", "AP"]
    assert table["split"].tolist() == ["train", "train", "val"]


def test_a_mapping_on_another_table_says_so(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("image,label\n0.png,1\n")
    with pytest.raises(UserError, match=r"no column 'Image Index', which data\.mapping expects"):
        read("table", path=tmp_path / "t.csv", images=tmp_path, mapping="nih-chestxray14")


NIH_2020 = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Sex,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]\n"
    "00000001_000.png,Pneumonia,0,1,036M,F,PA,2682,2749,0.143,0.143\n"
    "00000002_000.png,No Finding,0,2,045D,M,AP,2894,2729,0.143,0.143\n"
)


def test_pitfall_the_present_table_of_nih_has_no_sex(tmp_path: Path) -> None:
    for name in ("00000001_000.png", "00000002_000.png"):
        picture(tmp_path / "i" / name)
    (tmp_path / "d.csv").write_text(NIH_2020)
    keys = {"path": tmp_path / "d.csv", "images": tmp_path / "i", "mapping": "nih-chestxray14"}
    table = read("table", target="Pneumonia", **keys).table
    assert table["sex"].tolist() == ["F", "M"]
    assert table["age"].tolist() == pytest.approx([3, 45 / 365.2425])
    (tmp_path / "d.csv").write_text(NIH_2020.replace("Patient Sex", "Patient Kind"))
    cohort = read("table", target="Pneumonia", **keys)
    assert "sex" not in cohort.table
    assert [note for note in cohort.remarks if "sex is unknown" in note]


PADCHEST = (
    ",ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,PatientBirth,PatientSex_DICOM,"
    "ViewPosition_DICOM,Projection,MethodProjection,Pediatric,Modality_DICOM,MethodLabel,Labels,"
    "Localizations\n"
    "0,a.png,0,20140915,s1,p1,1930.0,M,PA,PA,m,No,CR,P,\"['Pleural effusion', 'kyphosis']\",[]\n"
    "1,b.png,0,20140101,s2,p2,2015.0,F,,L,m,No,CR,P,['normal'],[]\n"
    "2,c.png,1,20140101,s3,p3,,O,,AP,m,No,CR,P,\"['exclude', 'kyphosis']\",[]\n"
    "3,d.png,1,20150101,s4,p1,1930.0,M,,PA,m,No,CR,P,,[]\n"
    "4,e.png,1,20150101,s5,p4,1800.0,F,,PA,m,No,CR,P,['pleural effusion'],[]\n"
)


def test_padchest_lists_and_its_unusable_films(tmp_path: Path) -> None:
    for name in ("0/a", "0/b", "1/c", "1/d", "1/e"):
        picture(tmp_path / f"{name}.png")
    (tmp_path / "p.csv").write_text(PADCHEST)
    keys = {"path": tmp_path / "p.csv", "images": tmp_path, "mapping": "padchest"}
    with pytest.raises(UserError, match=r"row 3: label is empty.*data.uncertain"):
        read("table", target="pleural effusion", **keys)
    cohort = read("table", target="pleural effusion", uncertain="ignore", **keys)
    table = cohort.table
    assert table["image"].tolist() == ["0/a.png", "0/b.png", "1/e.png"]
    assert table["label"].tolist() == [1, 0, 1]
    assert table["age"].fillna(-1).tolist() == [84, -1, -1], "born after the study, or in 1800"
    assert table["sex"].tolist() == ["M", "F", "F"]
    assert table["view"].tolist() == ["PA", "L", "PA"]
    assert any("2 images have no usable labels" in note for note in cohort.remarks)
    assert read("table", target="kyphosis", uncertain="ignore", **keys).table["label"].sum() == 1


def test_rsna_has_a_row_for_each_box_and_no_patients(tmp_path: Path) -> None:
    rows = "a,,,,,0\nb,1.0,2.0,3.0,4.0,1\nb,5.0,6.0,7.0,8.0,1\nc,,,,,0\n"
    (tmp_path / "l.csv").write_text("patientId,x,y,width,height,Target\n" + rows)
    (tmp_path / "stage_2_detailed_class_info.csv").write_text(
        "patientId,class\na,Normal\nb,Lung Opacity\nb,Lung Opacity\n"
        "c,No Lung Opacity / Not Normal\n"
    )
    for name in "abc":
        picture(tmp_path / "stage_2_train_images" / f"{name}.png")
    keys = {"images": tmp_path / "stage_2_train_images", "mapping": "rsna-pneumonia"}
    cohort = read("table", path=tmp_path / "l.csv", **keys)
    assert cohort.table["label"].tolist() == [0, 1, 0]
    assert cohort.table["image"].tolist() == ["a.png", "b.png", "c.png"]
    assert cohort.table["finding"].iloc[2] == "No Lung Opacity / Not Normal"
    assert "patient_id" not in cohort.table, "a film's name is no person"


def test_vindr_goes_by_most_of_its_radiologists(tmp_path: Path) -> None:
    header = "image_id,rad_id,Aortic enlargement,Pneumonia,Other disease(s),No finding\n"
    rows = "a,R1,0,1,0,0\na,R2,0,1,0,0\na,R3,0,0,0,1\nb,R1,0,1,0,0\nb,R2,0,0,0,1\nb,R3,0,0,0,1\n"
    (tmp_path / "train.csv").write_text(header + rows)
    (tmp_path / "test.csv").write_text(header.replace("rad_id,", "") + "a,0,0,0,1\nb,0,1,0,0\n")
    boxes = (
        "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max\na,Pneumonia,12,R1,1,1,2,2\n"
        "a,Pneumonia,12,R1,3,3,4,4\na,No finding,14,R2,,,,\na,No finding,14,R3,,,,\n"
        "b,Pneumonia,12,R1,1,1,2,2\nb,Pneumonia,12,R2,1,1,2,2\nb,No finding,14,R3,,,,\n"
    )
    (tmp_path / "boxes.csv").write_text(boxes)
    for name in "ab":
        picture(tmp_path / "train" / f"{name}.png")
    keys = {"images": tmp_path / "train", "mapping": "vindr-cxr", "target": "Pneumonia"}
    for name, expected in (("train", [1, 0]), ("test", [0, 1]), ("boxes", [0, 1])):
        table = read("table", path=tmp_path / f"{name}.csv", **keys).table
        assert table["image"].tolist() == ["a.png", "b.png"]
        assert table["label"].tolist() == expected, name


def test_covid_chestxray_findings_are_paths(tmp_path: Path) -> None:
    header = "patientid,offset,sex,age,finding,survival,view,modality,date,folder,filename,url,\n"
    rows = (
        "2,0,M,65,Pneumonia/Viral/COVID-19,Y,PA,X-ray,2020,images,1.jpg,u,\n"
        '4,,F,"",No Finding,,AP,X-ray,2020,images,2.jpg,u,\n'
        "5,,,30,todo,,L,X-ray,2020,images,3.jpg,u,\n"
    )
    (tmp_path / "metadata.csv").write_text(header + rows)
    for number in (1, 2, 3):
        picture(tmp_path / "images" / f"{number}.jpg")
    keys = {"path": tmp_path / "metadata.csv", "images": tmp_path / "images"}
    cohort = read("table", mapping="covid-chestxray", target="COVID-19", uncertain="ignore", **keys)
    assert cohort.table["label"].tolist() == [1, 0]
    assert cohort.table["age"].fillna(-1).tolist() == [65, -1]
    assert cohort.table["patient_id"].tolist() == ["2", "4"]
    assert any("1 images have no finding yet" in note for note in cohort.remarks)


def test_mimic_tables_of_two_releases_are_refused(tmp_path: Path) -> None:
    labels = tmp_path / "mimic-cxr-2.0.0-chexpert.csv"
    labels.write_text("subject_id,study_id,Edema\n10000032,5,1.0\n10000764,6,\n")
    (tmp_path / "mimic-cxr-2.0.0-metadata.csv").write_text(
        "dicom_id,study_id,ViewPosition\naa,5,PA\nbb,5,AP\ncc,6,AP\ndd,7,AP\n"
    )
    (tmp_path / "mimic-cxr-2.0.0-split.csv").write_text(
        "dicom_id,study_id,split\naa,5,train\ncc,6,test\ndd,7,test\n"
    )
    for name in ("p10000032/s5/aa", "p10000764/s6/cc"):
        picture(tmp_path / "files" / "p10" / f"{name}.jpg")
    keys = {"path": labels, "images": tmp_path, "mapping": "mimic-cxr-jpg", "target": "Edema"}
    with pytest.raises(UserError, match="1 of 4 images are in one of metadata and split"):
        read("table", **keys)
    cohort = read("table", missing_images="leave-out", **keys)
    assert cohort.table["label"].tolist() == [1, 0]
    assert any("1 of 4 images" in note for note in cohort.remarks)
    assert any("1 images left out, without a label" in note for note in cohort.remarks)


def test_a_mapping_and_words_of_ones_own_exclude_each_other() -> None:
    base = {"source": "table", "path": "t.csv", "images": "i", "mapping": "chexpert"}
    for more in ({"positive": "ill"}, {"columns": {"image": "file"}}):
        with pytest.raises(UserError, match="remove one of the two"):
            parse({"data": base | more}, "t.toml")


def test_pitfall_a_film_without_findings_counts_as_healthy(tmp_path: Path) -> None:
    for name in ("00000001_000.png", "00000002_000.png"):
        picture(tmp_path / "i" / name)
    for nothing in ("", "NA"):
        (tmp_path / "d.csv").write_text(NIH_2020.replace("No Finding", nothing))
        keys = {"path": tmp_path / "d.csv", "images": tmp_path / "i", "target": "Pneumonia"}
        with pytest.raises(UserError, match="row 2: label is empty"):
            read("table", mapping="nih-chestxray14", **keys)
    boxes = "image_id,class_name,class_id,rad_id\na,Pneumonia,12,R1\nb,,14,R1\n"
    (tmp_path / "b.csv").write_text(boxes)
    with pytest.raises(UserError, match="row 2: class_name is empty"):
        read("table", mapping="vindr-cxr", path=tmp_path / "b.csv", images=tmp_path / "i")
    (tmp_path / "b.csv").write_text(boxes.replace(",,", ",Mass,").replace("14,R1", "14,"))
    with pytest.raises(UserError, match="row 2: rad_id is empty"):
        read("table", mapping="vindr-cxr", path=tmp_path / "b.csv", images=tmp_path / "i")


def test_mimic_tables_of_two_formats_join(tmp_path: Path) -> None:
    labels = tmp_path / "mimic-cxr-2.0.0-chexpert.parquet"
    rows = {"subject_id": [10000032, 10000764], "study_id": [5, 6], "Edema": [1.0, None]}
    pd.DataFrame(rows).to_parquet(labels)
    (tmp_path / "mimic-cxr-2.0.0-metadata.csv").write_text(
        "dicom_id,study_id,ViewPosition\naa,5,PA\ncc,6,AP\n"
    )
    for name in ("p10000032/s5/aa", "p10000764/s6/cc"):
        picture(tmp_path / "files" / "p10" / f"{name}.jpg")
    keys = {"path": labels, "images": tmp_path, "mapping": "mimic-cxr-jpg", "target": "Edema"}
    assert read("table", **keys).table["label"].tolist() == [1, 0]
