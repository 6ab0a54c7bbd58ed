import pytest

from annotate.viewing import fonts

CJK = "標的"


@pytest.fixture
def system_fonts(monkeypatch):
    """Set the fonts of this machine: none, or files."""

    def clear():
        fonts._best_system_font.cache_clear()
        fonts.report_replaced.cache_clear()

    def use(*paths):
        clear()
        monkeypatch.setattr(fonts, "system_fonts", lambda: tuple(paths))

    yield use
    clear()


@pytest.fixture
def cjk_font(tmp_path):
    """A font with two Chinese letters, filled squares, and the ASCII letters, hollow."""
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    pen = TTGlyphPen(None)
    pen.moveTo((100, 0)), pen.lineTo((100, 800)), pen.lineTo((900, 800)), pen.lineTo((900, 0))
    pen.closePath()
    square, empty = pen.glyph(), TTGlyphPen(None).glyph()
    letters = dict.fromkeys(range(32, 127), "blank") | {ord(each): "square" for each in CJK}
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "square", "blank"])
    builder.setupCharacterMap(letters)
    builder.setupGlyf({".notdef": empty, "square": square, "blank": empty})
    builder.setupHorizontalMetrics(dict.fromkeys((".notdef", "square", "blank"), (1000, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Test CJK", "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=800, sTypoDescender=-200)
    builder.setupPost()
    builder.save(tmp_path / "cjk.ttf")
    return tmp_path / "cjk.ttf"


def test_latin_greek_and_cyrillic_are_drawn_in_the_font_that_is_the_same_everywhere(system_fonts):
    system_fonts()
    for text in ("mug #3 0.91", "Gabel größer", "щит → λ “x”"):
        assert fonts.font_file(text) == fonts.default_font_file() and fonts.can_draw(text)
        assert fonts.drawable(text) == text


def test_a_font_of_the_system_is_taken_for_letters_that_the_default_lacks(system_fonts, cjk_font):
    system_fonts(fonts.default_font_file(), cjk_font)
    assert fonts.font_file(f"{CJK} #3 0.91") == cjk_font
    assert fonts.can_draw(CJK) and fonts.drawable(f"{CJK} #3") == f"{CJK} #3"
    assert fonts.font(20, CJK).getmask(CJK).getbbox() is not None


def test_letters_that_no_font_has_are_replaced_and_reported_once(system_fonts, caplog):
    system_fonts()
    assert not fonts.can_draw(f"{CJK} 7")
    assert [fonts.drawable(f"{CJK} 7") for _ in range(3)] == ["?? 7"] * 3
    assert len(caplog.messages) == 1
    assert CJK in caplog.messages[0] and "install a font" in caplog.messages[0]


def test_a_damaged_font_of_the_system_is_passed_over(system_fonts, tmp_path):
    (tmp_path / "bad.ttf").write_bytes(b"no font")
    system_fonts(tmp_path / "bad.ttf")
    assert fonts.drawable(CJK) == "??"
    assert list(fonts._scalable([tmp_path / "bad.ttf", fonts.default_font_file()])) == [
        fonts.default_font_file()
    ]
