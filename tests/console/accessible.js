({
  // The elements that have no name for a screen reader.
  unnamed: () => {
  const visible = (one) => one.offsetParent !== null || one.getClientRects().length > 0;
  const named = (one) => (one.getAttribute("aria-label") || document.getElementById(one.getAttribute("aria-labelledby") || "-")?.textContent
    || [...(one.labels || [])].map((label) => label.textContent).join("") || one.textContent || "").trim();
  return [...document.querySelectorAll("button, input, select, textarea, a[href], [role=img], [role=search], form, section, nav, meter, article")]
    .filter((one) => visible(one) && !named(one)).map((one) => one.outerHTML.slice(0, 120));
},

  // What a screen reader navigates by: unique ids, levels of headings, captions of tables and landmarks.
  structure: () => {
  const ids = [...document.querySelectorAll("[id]")].map((one) => one.id);
  const levels = [...document.querySelectorAll("h1, h2, h3, h4")].map((one) => Number(one.tagName[1]));
  return {
    repeated: ids.filter((id, at) => ids.indexOf(id) !== at),
    jumps: levels.filter((level, at) => at > 0 && level > levels[at - 1] + 1),
    firsts: levels.filter((level) => level === 1).length,
    uncaptioned: [...document.querySelectorAll("table")].filter((one) => !one.caption?.textContent).length,
    unscoped: [...document.querySelectorAll("thead th, tbody th")].filter((one) => !one.scope).length,
    landmarks: ["header", "nav", "main"].map((name) => document.querySelectorAll(name).length),
  };
},

  // The texts whose contrast with their background is less than `least`.
  pale: (least) => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const parsed = (color, over) => {
    canvas.clearRect(0, 0, 1, 1);
    for (const one of [over, color]) if (one) { canvas.fillStyle = one; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const ground = (one) => {
    for (let at = one; at; at = at.parentElement) {
      const [r, g, b, a] = parsed(getComputedStyle(at).backgroundColor);
      if (a > 230) return `rgb(${r} ${g} ${b})`;
    }
    return getComputedStyle(document.body).backgroundColor;
  };
  const luminance = ([r, g, b]) => [r, g, b].map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, at) => sum + c * [0.2126, 0.7152, 0.0722][at], 0);
  const contrast = (one, other) => { const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b); return (high + 0.05) / (low + 0.05); };
  const hasText = (one) => [...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
  const found = new Set();
  for (const one of document.body.querySelectorAll("*:not(svg *):not(option):not(script)")) {
    if (!hasText(one) || !one.getClientRects().length || one.disabled || one.closest("noscript")) continue;
    const style = getComputedStyle(one), under = ground(one);
    const value = contrast(parsed(style.color, under), parsed(under));
    if (value < least) found.add(`${one.className || one.tagName} ${style.color} on ${under}: ${value.toFixed(2)}`);
  }
  return [...found];
},
})