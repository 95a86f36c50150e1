// Finds texts whose contrast with what lies beneath is too small. Returns sentences.
() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgba = colour => { // any notation of a colour as numbers, by painting a pixel
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = "rgba(0, 0, 0, 0)";
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = ([r, g, b, a], below) =>
    [r, g, b].map((c, i) => a * c + (1 - a) * below[i]).concat(1);
  const luminance = colour => {
    const [r, g, b] = colour.slice(0, 3).map(c => c / 255)
      .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (a, b) => {
    const [dark, light] = [luminance(a), luminance(b)].sort((x, y) => x - y);
    return (light + 0.05) / (dark + 0.05);
  };
  const painted = (element, style) => { // what a text or a shape is filled with
    const part = element instanceof SVGElement && !(element instanceof SVGSVGElement);
    const colour = rgba(part ? (style.fill === "none" ? "transparent" : style.fill)
      : style.backgroundColor);
    let opacity = part ? Number(style.fillOpacity) : 1;
    if (part) for (let up = element; up instanceof SVGElement; up = up.parentElement) {
      opacity *= Number(getComputedStyle(up).opacity);
    }
    colour[3] *= opacity;
    return colour;
  };
  const dark = matchMedia("(prefers-color-scheme: dark)").matches
    && getComputedStyle(document.documentElement).colorScheme.includes("dark");
  const paper = dark ? [18, 18, 18, 1] : [255, 255, 255, 1];
  const backdrop = (element, x, y) => { // colour beneath an element at a point of the window
    const stack = document.elementsFromPoint(x, y);
    const place = stack.indexOf(element);
    return stack.slice(place + 1).filter(below => !below.matches("text, tspan"))
      .map(below => painted(below, getComputedStyle(below))).reverse()
      .reduce((below, colour) => over(colour, below), paper);
  };
  const faults = [];
  for (const part of document.querySelectorAll("svg *")) part.style.pointerEvents = "visiblePainted";
  const texts = [...document.querySelectorAll("svg text, #answer, h1, h2, h3, th, td, p, summary")]
    .filter(text => text.textContent.trim()
      && text.checkVisibility({ opacityProperty: true, visibilityProperty: true }));
  for (const text of texts) {
    text.scrollIntoView({ block: "center", inline: "center", behavior: "instant" });
    const box = text.getBoundingClientRect();
    if (box.width <= 1 || box.height <= 1) continue;
    const style = getComputedStyle(text), svg = text instanceof SVGElement;
    let beneath = backdrop(text, box.left + box.width / 2, box.top + box.height / 2);
    if (svg && style.stroke !== "none" && parseFloat(style.strokeWidth) >= 1) {
      beneath = over(rgba(style.stroke), beneath); // a halo
    }
    const colour = over(svg ? painted(text, style) : rgba(style.color), beneath);
    const size = parseFloat(style.fontSize), bold = Number(style.fontWeight) >= 700;
    const least = size >= 24 || (bold && size >= 18.66) ? 3 : 4.5; // WCAG 2, level AA
    const found = contrast(colour, beneath);
    if (found < least - 0.05) {
      const words = text.textContent.trim().replace(/\s+/g, " ").slice(0, 40);
      faults.push(`${text.localName} "${words}" has contrast ${found.toFixed(2)} of ${least}`);
    }
  }
  return faults;
}
