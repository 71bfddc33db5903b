"""What a picture must be, whatever it shows."""

from itertools import combinations

from matplotlib.backends.backend_agg import FigureCanvasAgg


def texts(axes):
    """The words that stand in `axes`, apart from ticks and titles."""
    return [text.get_text() for text in axes.texts]


def legend(figure):
    """The lines of a figure's legend."""
    return [text.get_text() for text in figure.legends[0].get_texts()]


def assert_legible(figure):
    """No word over another, none beyond the edge of the picture."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    shown = [text for axes in figure.axes for text in axes.texts if text.get_text()]
    boxes = {text: text.get_window_extent(renderer) for text in shown}
    page = figure.bbox
    for text, box in boxes.items():
        outside = min(box.x0, box.y0) < 0 or box.x1 > page.x1 or box.y1 > page.y1
        assert not outside, text.get_text()
    for first, second in combinations(shown, 2):
        apart = not boxes[first].padded(-1).overlaps(boxes[second].padded(-1))
        assert apart, f"{first.get_text()!r} over {second.get_text()!r}"
