"""The figures of a composition space: what is drawn where, and what they refuse."""

import re
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from results_making import DATA, Made, write_matlab

from uspex_bridge.base.errors import ConfigError, OutputError
from uspex_bridge.figures import coverage, diagram, family, hull, solid, style, ternary, volume
from uspex_bridge.results.hulls.outliers import find_outliers
from uspex_bridge.results.hulls.stability import Question, assess
from uspex_bridge.results.reading.model import TIE, Entry, Pool
from uspex_bridge.results.reading.sources import Loose, open_sources


def entry(number, composition, per_atom, volume=10.0, level="model", run="made"):
    natoms = sum(composition.values())
    return Entry(
        run, number, tuple(composition.items()), per_atom * natoms, volume * natoms, pressure_gpa=50.0, level=level
    )


def loose(*entries, label="made"):
    return Loose(label, tuple(entries), {})


def made_diagram(*sources):
    return diagram.make_diagram({"": assess(Pool(list(sources)), Question(within=TIE, method="none"))})


def opened(path):
    return made_diagram(*open_sources([str(path)]).sources.values())


BINARY = loose(
    entry(1, {"Ca": 2}, 0.0),
    entry(2, {"Ni": 1}, -1.0),
    entry(3, {"Ca": 1, "Ni": 1}, -0.9),
    entry(4, {"Ca": 1, "Ni": 1}, -0.6),
    entry(5, {"Ca": 1, "Ni": 3}, -0.9495),  # 0.0005 above the line
    entry(6, {"Ca": 3, "Ni": 1}, 2.0),
)


def svg_of(figure, tmp_path):
    style.save(figure, tmp_path / "figure.svg")
    return (tmp_path / "figure.svg").read_text()


def test_marks_carry_the_hulls_numbers():
    made = made_diagram(BINARY)
    marks = {mark.entry.id: mark for mark in made.marks}
    assert made.components == ("Ca", "Ni")
    assert marks[3].formation == pytest.approx(-0.4)
    assert marks[4].above == pytest.approx(0.3)
    assert marks[5].fractions == pytest.approx((0.25, 0.75))
    assert [mark.entry.id for mark, _ in made.labelled] == [1, 2, 3, 5]
    assert diagram.is_tie(marks[5])
    assert {frozenset(m.entry.id for m in pair) for pair in made.edges[""]} == {frozenset({1, 3}), frozenset({2, 3})}
    assert [mark.entry.id for mark in made.lowest()] == [6, 5, 3, 1, 2]


def test_binary_hull_draws_line_labels_and_what_it_leaves_out(tmp_path):
    made = made_diagram(BINARY)
    figure = hull.draw(made)
    axes = figure.axes[0]
    segments = [line.get_xydata() for line in axes.lines if len(line.get_xdata()) == 2 and line.get_lw() == 0.9]
    ends = {tuple(np.round(point, 6)) for segment in segments for point in segment}
    assert ends == {(0.0, 0.0), (0.5, -0.4), (1.0, 0.0)}
    text = svg_of(figure, tmp_path)
    assert "50 GPa; model; 6 structures; 1 above the axis" in text
    explained = [entry.get_text() for entry in axes.get_legend().get_texts()]
    assert explained == ["structure", "on the hull", "within 1 meV/atom"]
    assert "(tie)" in text
    assert figure.get_size_inches()[0] == pytest.approx(85 / 25.4)
    assert hull.document(made)["points"][0]["name"] == "made:EA4"
    assert len(hull.document(made, top=5.0)["points"]) == 6


def test_levels_of_theory_have_hulls_of_their_own():
    dft = loose(
        entry(1, {"Ni": 1}, -11.0, level="PBE", run="dft"),
        entry(2, {"Ca": 1}, -5.0, level="PBE", run="dft"),
        entry(3, {"Ca": 1, "Ni": 1}, -8.1, level="PBE", run="dft"),
        label="dft",
    )
    answers = {source.label: assess(Pool([source]), Question(within=TIE, method="none")) for source in (BINARY, dft)}
    made = diagram.make_diagram(answers)
    assert made.series == ("model", "PBE")
    assert {name: len(pairs) for name, pairs in made.edges.items()} == {"made": 2, "dft": 2}
    (compound,) = [mark for mark in made.marks if mark.entry.name == "dft:EA3"]
    assert compound.formation == pytest.approx(-0.1)
    assert compound.fractions == (0.5, 0.5)
    labels = [text.get_text() for text in hull.draw(made).axes[0].get_legend().get_texts()]
    assert labels == ["model", "PBE", "on the hull", "within 1 meV/atom"]


def test_ternary_draws_the_lowest_of_each_composition(tmp_path):
    three = loose(
        entry(1, {"Ca": 1}, 0.0),
        entry(2, {"Fe": 1}, 0.0),
        entry(3, {"Ni": 1}, 0.0),
        entry(4, {"Ca": 1, "Fe": 1, "Ni": 1}, -0.3),
        entry(5, {"Ca": 2, "Fe": 2, "Ni": 2}, -0.1),
    )
    made = made_diagram(three)
    assert [mark.entry.id for mark in ternary.drawn(made)] == [4, 1, 2, 3]
    assert ternary.to_plane((1, 0, 0)) == (0, 0)
    assert ternary.to_plane((1 / 3, 1 / 3, 1 / 3)) == pytest.approx((0.5, 3**0.5 / 6))
    figure = ternary.draw(made)
    assert len(figure.axes) == 4  # two maps, two colour bars
    assert "CaFeNi" in svg_of(figure, tmp_path)
    assert len(ternary.draw(made, colour="above").axes) == 2


def test_the_wrong_number_of_components_is_said():
    four = [entry(k, {symbol: 1}, 0.0) for k, symbol in enumerate(("Ca", "Fe", "Ni", "Al"), 1)]
    made = made_diagram(loose(*four))
    assert solid.draw(made).axes
    for draw in (hull.draw, ternary.draw, coverage.gather):
        with pytest.raises(ConfigError, match=r"are 4 \(Ca, Fe, Ni, Al\); choose .* --components"):
            draw(made)
    with pytest.raises(ConfigError, match="see plot ternary"):
        hull.draw(made_diagram(loose(*four[:3])))
    one = opened(DATA / "300")
    with pytest.raises(ConfigError, match="one composition"):
        hull.draw(one)
    assert volume.draw(volume.gather(one)).axes


def test_four_components_are_a_tetrahedron_and_three_rise_by_enthalpy():
    corners = np.array([solid.to_space(row) for row in np.eye(4)])
    assert np.linalg.norm(corners[:, None] - corners, axis=2)[np.triu_indices(4, 1)] == pytest.approx(1.0)
    assert corners[:3].mean(axis=0) == pytest.approx(0.0, abs=1e-12)
    assert solid.to_space([0.25] * 4) == pytest.approx(corners.mean(axis=0))
    assert solid.to_screen((1.0, 2.0, 3.0), (-90.0, 0.0)) == pytest.approx((1.0, 3.0))  # from the front
    assert solid.to_screen((1.0, 2.0, 3.0), (-90.0, 90.0)) == pytest.approx((1.0, 2.0))  # from above
    pure = [entry(k, {symbol: 1}, 0.0) for k, symbol in enumerate(("Ca", "Fe", "Ni", "Al"), 1)]
    inner = entry(5, {"Ca": 1, "Fe": 1, "Ni": 1, "Al": 1}, -0.3)
    four = made_diagram(loose(*pure, inner, entry(6, {"Ca": 2, "Fe": 2, "Ni": 2, "Al": 2}, -0.1)))
    assert [mark.entry.id for mark in solid.drawn(four)] == [5, 1, 2, 3, 4]
    assert len(four.facets()) == 4
    assert all(len(facet) == 4 and any(mark.entry.id == 5 for mark in facet) for facet in four.facets())
    (label,) = [
        text.get_text()
        for text in solid.draw(four).axes[0].texts
        if {"Ca", "Al"} < set(re.findall("[A-Z][a-z]", text.get_text()))
    ]
    assert label
    three = made_diagram(loose(*pure[:3], entry(7, {"Ca": 1, "Ni": 1}, -0.2), entry(8, {"Ca": 1, "Fe": 1}, 0.9)))
    assert [mark.entry.id for mark in solid.drawn(three)] == [7, 1, 2, 3]  # 8 lies higher than the hull is deep
    assert solid.rise(solid.drawn(three)) == pytest.approx(0.85 / 0.2)
    assert len(three.facets()) == 2
    heights = [text.get_text() for text in solid.draw(three).axes[0].texts]
    assert {"-0.20", "0.00"} <= set(heights)


def test_components_stand_in_the_order_of_the_search(tmp_path):
    structures = [Made(1, bulk("Ni"), -5.0), Made(2, bulk("Ca"), -2.0)]
    write_matlab(tmp_path / "results1", structures, ("Ca", "Ni"))
    assert opened(tmp_path / "results1").components == ("Ca", "Ni")


def test_many_points_are_pixels_in_a_vector_file(tmp_path):
    rng = np.random.default_rng(1)
    many = [entry(k, {"Ca": int(rng.integers(1, 9)), "Ni": 4}, float(rng.random())) for k in range(3, 20_001)]
    made = made_diagram(loose(entry(1, {"Ca": 1}, 0.0), entry(2, {"Ni": 1}, 0.0), *many))
    text = svg_of(hull.draw(made, top=2.0), tmp_path)
    assert "<image" in text
    assert len(text) < 2_000_000


def test_labels_do_not_overlap():
    compounds = [entry(10 + k, {"Ca": k, "Ni": 20 - k}, -0.05 - 0.002 * k * (20 - k)) for k in range(1, 20)]
    made = made_diagram(loose(entry(1, {"Ca": 1}, 0.0), entry(2, {"Ni": 1}, 0.0), *compounds))
    figure = hull.draw(made, labels=12)
    figure.draw_without_rendering()
    texts = [t for t in figure.axes[0].texts if t.get_text()]
    boxes = [t.get_window_extent() for t in texts]
    assert len(boxes) == 12
    assert not [(a, b) for k, a in enumerate(boxes) for b in boxes[k + 1 :] if a.overlaps(b)]
    leaders = [line for line in figure.axes[0].lines if line.get_linewidth() == 0.4]
    assert leaders
    for leader in leaders:
        ends = figure.axes[0].transData.transform(leader.get_xydata())
        along = [ends[0] + share * (ends[1] - ends[0]) for share in np.linspace(0, 0.98, 200)]
        assert not [box for box in boxes if any(box.shrunk(0.97, 0.97).contains(*spot) for spot in along)]


def test_formulas_and_groups_as_they_are_printed():
    assert style.formula_text((("Ca", 4), ("Ni", 8))) == "CaNi$_{2}$"
    assert style.group_text("P6_3/mmc (194)") == r"$\mathit{P}6_{3}/\mathit{mmc}$"
    assert style.group_text("Fm-3m (225)") == r"$\mathit{Fm}\bar{3}\mathit{m}$"
    assert style.group_html("P6_3/mmc (194)") == "<i>P</i>6<sub>3</sub>/<i>mmc</i>"
    assert style.group_html("Fm-3m (225)") == "<i>Fm</i>3\u0305<i>m</i>"
    assert style.group_text("?") == ""


def test_operators_of_both_lines_are_known():
    looks = {style.operator_look(name) for name in ("Heredity", "softmutate", "Permutate", "TransMutate", "LatMutate")}
    assert len(looks) == 5
    assert style.operator_look("Softmutation") == style.operator_look("softmutate")
    assert style.operator_look("Permutate") != style.operator_look("TransMutate")


def test_coverage_counts_compositions():
    made = coverage.gather(made_diagram(BINARY))
    assert made.counts == {(1, 0): 1, (0, 1): 1, (1, 1): 2, (1, 3): 1, (3, 1): 1}
    assert made.largest == 4
    assert sorted(made.possible) == [(0, 1), (1, 0), (1, 1), (1, 2), (1, 3), (2, 1), (3, 1)]
    assert made.share == pytest.approx(5 / 7)
    assert "6 structures; 5 of 7 compositions (71 %)" in coverage.draw(made).get_suptitle()


def searched(number, seed=0):
    """A search without artefacts: volumes and enthalpies by composition, a bowing, and noise to one side."""
    rng = np.random.default_rng(seed)
    found = []
    for k in range(1, number + 1):
        a, b = int(rng.integers(0, 9)), int(rng.integers(1, 9))
        x = a / (a + b)
        loose_packing = rng.gamma(2.0, 0.1)
        volume = 9.0 + 4.0 * x - 0.8 * x * (1 - x) + loose_packing
        enthalpy = 3.0 * x - 1.0 * x * (1 - x) + 0.312 * loose_packing + rng.normal(0, 0.01)
        found.append(entry(k, {"Ca": a, "Ni": b} if a else {"Ni": b}, enthalpy, volume))
    return found


def test_outliers_are_found_and_only_they():
    assert find_outliers(searched(12)) is None
    assert find_outliers(searched(200)) == []
    collapsed = entry(901, {"Ca": 4, "Ni": 4}, 1.3, 6.0)
    spurious = entry(902, {"Ca": 2, "Ni": 6}, -0.9, 10.1)
    found = find_outliers([*searched(200), collapsed, spurious])
    assert {(o.entry.id, o.kind) for o in found} == {(901, "small volume"), (902, "low enthalpy")}
    assert "made:EA902 Ca2Ni6: low enthalpy, -1." in str(next(o for o in found if o.entry.id == 902))


def test_volumes_ring_their_outliers(tmp_path):
    from uspex_bridge.figures import interactive

    ends = [entry(901, {"Ca": 1}, 3.0, 13.0), entry(902, {"Ni": 1}, 0.0, 9.0), entry(903, {"Ca": 4, "Ni": 4}, 1.3, 6.0)]
    volumes = volume.gather(made_diagram(loose(*searched(200), *ends)))
    text = svg_of(volume.draw(volumes), tmp_path)
    assert "203 structures; 1 outlier" in text
    assert "EA903" in text
    (flagged,) = [point for point in volume.document(volumes)["points"] if point["outlier"]]
    assert (flagged["name"], flagged["outlier"]) == ("made:EA903", "small volume")
    (rings,) = [trace for trace in interactive.volume(volumes).data if trace.name == "outliers"]
    assert list(rings.customdata) == ["made:EA903"]  # a click on the ring, which covers the point, finds it


def test_the_users_matplotlib_settings_do_not_matter(tmp_path):
    import matplotlib

    made = made_diagram(BINARY)
    plain = svg_of(hull.draw(made), tmp_path)
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "path", "axes.facecolor": "red"}):
        assert svg_of(hull.draw(made), tmp_path) == plain
    assert re.search(r"<text[^>]*>", plain)


def test_unknown_endings_are_refused():
    with pytest.raises(ConfigError, match=r"\.png, \.svg, \.pdf"):
        style.save(style.new_figure(85, 1), Path("hull.bmp"))


def test_a_disk_that_fills_leaves_the_figure_that_was_there(tmp_path):
    import resource

    figure = style.new_figure(85, 1)
    style.save(figure, tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    figure.subplots().plot([0, 1], [1, 0])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
    try:
        with pytest.raises(OutputError, match=r"a\.png: cannot be written"):
            style.save(figure, tmp_path / "a.png")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == before


def test_a_page_names_stable_phases_and_says_what_decomposes_into_what():
    from uspex_bridge.figures import interactive

    three = loose(
        entry(1, {"Ca": 1}, 0.0),
        entry(2, {"Fe": 1}, 0.0),
        entry(3, {"Ni": 1}, 0.0),
        entry(4, {"Ca": 1, "Fe": 1}, -0.3),
        entry(5, {"Ca": 1, "Fe": 1, "Ni": 2}, -0.1),
    )
    made = made_diagram(three)
    (above,) = [mark for mark in made.marks if mark.entry.id == 5]
    assert {one.entry.id: share for one, share in made.products(above)} == pytest.approx({3: 0.5, 4: 0.5})
    page = interactive.ternary(made)
    texts = [text for trace in page.data if trace.text is not None for text in trace.text]
    assert any("decomposes into" in text and "0.50 CaFe" in text for text in texts)
    assert "CaFe" in [text.strip() for text in texts]
    solid_page = interactive.solid(made)
    assert sum(trace.type == "mesh3d" for trace in solid_page.data) == len(made.facets()) == 2
    (points,) = [trace for trace in solid_page.data if trace.type == "scatter3d" and trace.mode == "markers"]
    assert list(points.customdata) == [mark.entry.name for mark in solid.drawn(made)]
    assert min(points.z) == pytest.approx(-0.85)


def test_a_line_of_the_family_tree_bends_around_a_member():
    places = {1: (0.0, 0.0), 2: (2.0, -2.0), 3: (1.0, -1.0), 4: (3.0, 0.0)}
    bent = np.array(family._course(places, 1, 2))
    assert (tuple(bent[0]), tuple(bent[-1])) == (places[1], places[2])
    assert np.hypot(*(bent - places[3]).T).min() > 0.3
    assert family._course(places, 4, 2) == [places[4], places[2]]


def test_the_volume_figure_shows_every_phase_on_the_hull():
    alike = [entry(k, {"Ni": 1}, -5.0 + 0.001 * k) for k in range(10, 60)]
    drawn = volume.gather(made_diagram(loose(entry(1, {"Ca": 2}, 4.0), *alike)))
    axes = volume.draw(drawn, quantity="enthalpy").axes[0]
    assert axes.get_ylim()[1] > 4.0
