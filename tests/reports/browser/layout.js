// Finds what overlaps or leaves its place. Returns sentences, one per fault.
(width) => {
  const faults = [];
  const slack = 1; // pixels by which boxes may meet
  const said = element => element.textContent.trim().replace(/\s+/g, " ").slice(0, 60);
  const named = element =>
    `${element.localName}${element.id ? "#" + element.id : ""} "${said(element)}"`;
  const visible = element =>
    element.checkVisibility({ opacityProperty: true, visibilityProperty: true });
  const root = document.documentElement;

  const widest = Math.max(root.scrollWidth, document.body.scrollWidth);
  if (widest > width + slack) faults.push(`the page is ${widest} pixels wide, the window ${width}`);

  // The corners of an svg text in the window, in order around its box, however it is turned.
  const corners = text => {
    const { x, y, width: w, height: h } = text.getBBox(), map = text.getScreenCTM();
    return [[x, y], [x + w, y], [x + w, y + h], [x, y + h]]
      .map(([a, b]) => ({ x: map.a * a + map.c * b + map.e, y: map.b * a + map.d * b + map.f }));
  };
  const around = points => {
    const xs = points.map(p => p.x), ys = points.map(p => p.y);
    return { left: Math.min(...xs), right: Math.max(...xs),
             top: Math.min(...ys), bottom: Math.max(...ys) };
  };
  const common = (a, b) => Math.min(
    Math.min(a.right, b.right) - Math.max(a.left, b.left),
    Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top));
  // Depth of the common part of two turned boxes, the least over the directions of their sides.
  const depth = (a, b) => {
    let least = Infinity;
    for (const box of [a, b]) for (const [p, q] of [[box[0], box[1]], [box[1], box[2]]]) {
      const long = Math.hypot(q.x - p.x, q.y - p.y);
      if (long === 0) return 0;
      const u = (q.x - p.x) / long, v = (q.y - p.y) / long;
      const span = points => {
        const along = points.map(c => c.x * u + c.y * v);
        return [Math.min(...along), Math.max(...along)];
      };
      const [al, ah] = span(a), [bl, bh] = span(b);
      least = Math.min(least, Math.min(ah, bh) - Math.max(al, bl));
    }
    return least;
  };

  for (const svg of document.querySelectorAll("svg")) {
    if (!visible(svg)) continue;
    const frame = svg.getBoundingClientRect();
    const texts = [...svg.querySelectorAll("text")]
      .filter(text => said(text) && visible(text))
      .map(text => ({ text, box: corners(text) }))
      .map(one => ({ ...one, edge: around(one.box), words: said(one.text) }))
      .sort((a, b) => a.edge.left - b.edge.left);
    for (const { words, edge } of texts) {
      if (edge.left < frame.left - slack || edge.right > frame.right + slack
          || edge.top < frame.top - slack || edge.bottom > frame.bottom + slack) {
        faults.push(`text "${words}" leaves its chart`);
      }
    }
    texts.forEach((a, place) => {
      for (const b of texts.slice(place + 1)) {
        if (b.edge.left > a.edge.right) break;
        // A label that is drawn twice at one place is a label with a halo.
        const halo = a.words === b.words && common(a.edge, b.edge) > 0
          && Math.hypot(a.edge.left - b.edge.left, a.edge.top - b.edge.top) < 0.5;
        if (!halo && common(a.edge, b.edge) > slack && depth(a.box, b.box) > slack) {
          faults.push(`texts "${a.words}" and "${b.words}" of a chart overlap`);
        }
      }
    });
  }

  // The boxes of an element's lines as far as no ancestor clips them; `scrolls` if one may be moved.
  const shown = element => {
    const range = document.createRange();
    range.selectNodeContents(element);
    let boxes = element.matches("svg, select, input, .chart")
      ? [element.getBoundingClientRect()] : [...range.getClientRects()];
    let scrolls = false;
    for (let up = element; up && up !== root && up !== document.body; up = up.parentElement) {
      const style = getComputedStyle(up);
      if (style.overflowX === "visible" && style.overflowY === "visible") continue;
      scrolls ||= ["auto", "scroll"].includes(style.overflowX);
      const clip = up.getBoundingClientRect();
      if (!scrolls && clip.width > 2 && style.textOverflow !== "ellipsis" // of 1 pixel: for readers
          && boxes.some(b => b.left < clip.left - slack || b.right > clip.right + slack)) {
        faults.push(`${named(element)} is cut off`);
      }
      boxes = boxes.map(box => ({
        left: Math.max(box.left, clip.left), right: Math.min(box.right, clip.right),
        top: Math.max(box.top, clip.top), bottom: Math.min(box.bottom, clip.bottom) }));
    }
    return boxes.filter(box => box.right - box.left > slack && box.bottom - box.top > slack)
      .map(box => ({ element, box, scrolls }));
  };
  const kinds = "h1, h2, h3, h4, h5, h6, p, caption, figcaption, summary, th, td, label, button, "
    + "select, .chart, .chart > svg";
  const blocks = [...document.querySelectorAll(kinds)]
    .filter(element => visible(element) && !element.closest("dialog"))
    .flatMap(shown)
    .sort((a, b) => a.box.left - b.box.left);
  blocks.forEach((a, place) => {
    if (!a.scrolls && (a.box.left < -slack || a.box.right > width + slack)) {
      faults.push(`${named(a.element)} leaves the window`);
    }
    for (const b of blocks.slice(place + 1)) {
      if (b.box.left > a.box.right) break;
      if (common(a.box, b.box) > slack
          && !a.element.contains(b.element) && !b.element.contains(a.element)) {
        faults.push(`${named(a.element)} and ${named(b.element)} overlap`);
      }
    }
  });
  return [...new Set(faults)];
}
