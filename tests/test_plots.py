"""Plots draw class names in a font that has their letters; missing letters are reported once."""

import warnings

import numpy as np
import pytest
from matplotlib import font_manager
from PIL import Image

from pipeline.evaluation import plots


@pytest.fixture(autouse=True)
def no_warning_yet(monkeypatch):
    monkeypatch.setattr(plots, "_reported", set())


def _matrix(file, *names):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots.confusion(np.eye(len(names)), np.ones(len(names)), list(names), "a title", file)
    return file.read_bytes()


def test_letters_without_a_font_are_reported_once(tmp_path, capsys):
    _matrix(tmp_path / "a.png", "\U00013000\U00013001", "b")  # hieroglyphs: no font of matplotlib's has them
    _matrix(tmp_path / "b.png", "\U00013000", "b")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "\U00013000\U00013001 (2 characters)" in lines[0] and "Noto Sans" in lines[0]


def test_a_fallback_font_with_the_letters_is_found(tmp_path, capsys, monkeypatch):
    fonts = [font for font in font_manager.fontManager.ttflist if font.name in ("DejaVu Sans", "STIXGeneral")]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", fonts)
    default = font_manager.findfont("DejaVu Sans")
    letter = next(
        chr(code)
        for code in (*range(0x1D400, 0x1D7FF), *range(0xE000, 0xE300))
        if plots._missing_glyphs(default, {chr(code)})
        and not plots._missing_glyphs(font_manager.findfont("STIXGeneral"), {chr(code)})
    )
    assert plots._fallback_fonts({letter, "a"}) == ["STIXGeneral"]
    image = _matrix(tmp_path / "a.png", letter, "b")
    assert capsys.readouterr().err == ""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "_fallback_fonts", lambda letters: [])
        assert _matrix(tmp_path / "b.png", letter, "b") != image


def test_latin_names_need_no_fallback_font(tmp_path):
    assert plots._fallback_fonts(set("Kätzchen č ÅØ")) == []


@pytest.mark.parametrize("name", ["$\\frac$", "a$x", "x\x1b[31m", "\udce4", "_x"])
def test_any_name_is_drawn_literally(tmp_path, name):
    _matrix(tmp_path / "a.png", name, "b")
    plots.mistakes([np.zeros((4, 4, 3), np.uint8)], [f"{name}\ntaken for b"], name, tmp_path / "b.png")
    points = {name: [{"step": 0, "epoch": 1, "val/top1": 0.5, "val/loss": 1.0}]}
    plots.curves(points, "val/top1", name, tmp_path / "c.png")
    assert Image.open(tmp_path / "b.png").size[0] > 100
