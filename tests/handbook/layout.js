// Finds what leaves the window and cannot be scrolled to. Returns sentences, one per fault.
(width) => {
  const faults = [];
  if (document.documentElement.scrollWidth > width + 1) {
    faults.push(`the page is ${document.documentElement.scrollWidth} pixels wide`);
  }
  for (const element of document.querySelectorAll(
    "article :is(h1, h2, h3, h4, p, li, dt, dd, td, th, pre, img, math, figcaption)")) {
    const box = element.getBoundingClientRect();
    if (!element.checkVisibility() || box.width <= 1 || (box.right <= width + 1 && box.left >= -1)) {
      continue;
    }
    let scrolls = false;
    for (let up = element.parentElement; up && up.localName !== "article"; up = up.parentElement) {
      const style = getComputedStyle(up), frame = up.getBoundingClientRect();
      scrolls ||= ["auto", "scroll"].includes(style.overflowX) && frame.right <= width + 1;
    }
    if (!scrolls) {
      faults.push(`${element.localName} "${element.textContent.trim().slice(0, 40)}" is cut off`);
    }
  }
  return faults;
}
