// Shows a crystal on a canvas: cell, atoms and bonds. With `live` it turns by dragging or arrow keys and grows by
// wheel or pinch. `crystal` is what figures/crystals.py writes: cell (rows) and atoms in Å, bonds as pairs of atoms,
// the colour and the radius (Å) of each element.
function showCrystal(canvas, crystal, live) {
  const {cell, atoms, bonds, looks} = crystal;
  const corner = n => [0, 1, 2].map(i => cell.reduce((sum, row, k) => sum + (n >> k & 1) * row[i], 0));
  const middle = corner(7).map(x => x / 2);
  const radius = p => Math.hypot(p[0] - middle[0], p[1] - middle[1], p[2] - middle[2]);
  const reach = Math.max(...[0, 1, 2, 3, 4, 5, 6, 7].map(n => radius(corner(n)) + 0.5),
    ...atoms.map(([symbol, ...p]) => radius(p) + looks[symbol][1]));
  const edges = [];
  for (let n = 0; n < 8; n++) for (let k = 0; k < 3; k++) if (!(n >> k & 1)) edges.push([corner(n), corner(n | 1 << k)]);
  const rotated = (m, about, angle) => {
    const [c, s] = [Math.cos(angle), Math.sin(angle)], [i, j] = [(about + 1) % 3, (about + 2) % 3], turned = [...m];
    turned[i] = m[i].map((x, k) => c * x - s * m[j][k]);
    turned[j] = m[i].map((x, k) => s * x + c * m[j][k]);
    return turned;
  };
  const cross = (a, b) => [0, 1, 2].map(i => a[(i + 1) % 3] * b[(i + 2) % 3] - a[(i + 2) % 3] * b[(i + 1) % 3]);
  const unit = a => a.map(x => x / Math.hypot(...a));
  const mixed = (colour, grey, share) => "#" + [1, 3, 5].map(k => parseInt(colour.slice(k, k + 2), 16))
    .map(x => Math.round(share * x + (1 - share) * grey).toString(16).padStart(2, "0")).join("");
  // Rows: right, up, towards the viewer. Along a lattice vector, another one points up.
  const along = k => {
    const out = unit(cell[k]), right = unit(cross(cell[(k + 2) % 3], out));
    return [right, cross(out, right), out];
  };
  const start = () => rotated(rotated(along(0), 1, -0.35), 0, 0.2);
  let turn = start(), zoom = 1;

  function draw() {
    const box = canvas.getBoundingClientRect(), dense = window.devicePixelRatio || 1;
    if (!box.width) return;
    canvas.width = box.width * dense;
    canvas.height = box.height * dense;
    const pen = canvas.getContext("2d"), ink = getComputedStyle(canvas).color;
    const scale = 0.47 * Math.min(canvas.width, canvas.height) / reach * zoom;
    const put = p => {
      const [x, y, z] = turn.map(row => row.reduce((sum, r, i) => sum + r * (p[i] - middle[i]), 0));
      const near = 8 * reach / (8 * reach - z);  // what is nearer is larger
      return [canvas.width / 2 + scale * near * x, canvas.height / 2 - scale * near * y, z, scale * near];
    };
    const between = (p, q, t) => p.map((x, i) => x + t * (q[i] - x));
    const line = (p, q, width, colour) => {
      const a = put(p), b = put(q);
      return [(a[2] + b[2]) / 2, () => {
        pen.strokeStyle = colour;
        pen.lineWidth = width * a[3];
        pen.beginPath();
        pen.moveTo(a[0], a[1]);
        pen.lineTo(b[0], b[1]);
        pen.stroke();
      }];
    };
    const things = [];
    for (const [p, q] of edges) for (let k = 0; k < 8; k++)
      things.push(line(between(p, q, k / 8), between(p, q, (k + 1) / 8), Math.max(0.02, dense / scale), ink));
    for (const [i, j] of bonds) {
      const [one, ...p] = atoms[i], [other, ...q] = atoms[j];
      things.push(line(p, between(p, q, 0.5), 0.16, looks[one][0]), line(between(p, q, 0.5), q, 0.16, looks[other][0]));
    }
    for (const [symbol, ...place] of atoms) {
      const [x, y, z, size] = put(place), [colour, wide] = looks[symbol], r = wide * size;
      things.push([z, () => {
        const shade = pen.createRadialGradient(x - 0.35 * r, y - 0.35 * r, 0.05 * r, x, y, r);
        shade.addColorStop(0, mixed(colour, 255, 0.35));
        shade.addColorStop(0.45, colour);
        shade.addColorStop(1, mixed(colour, 0, 0.62));
        pen.fillStyle = shade;
        pen.beginPath();
        pen.arc(x, y, r, 0, 2 * Math.PI);
        pen.fill();
      }]);
    }
    pen.lineCap = "round";
    for (const [, paint] of things.sort((a, b) => a[0] - b[0])) paint();
    if (!live) return;
    pen.fillStyle = ink;
    pen.font = `italic ${14 * dense}px serif`;
    for (let k = 0; k < 3; k++) {
      const [x, y] = put(cell[k].map(x => x + 0.45 * x / Math.hypot(...cell[k])));
      pen.fillText("abc"[k], x - 4 * dense, y + 4 * dense);
    }
  }

  draw();
  const mode = matchMedia("(prefers-color-scheme: dark)");
  mode.addEventListener("change", draw);
  if (!live) return {draw};
  const fingers = new Map();
  const apart = () => { const [a, b] = [...fingers.values()]; return Math.hypot(a.x - b.x, a.y - b.y); };
  canvas.onpointerdown = e => { canvas.setPointerCapture(e.pointerId); fingers.set(e.pointerId, e); };
  canvas.onpointerup = canvas.onpointercancel = e => fingers.delete(e.pointerId);
  canvas.onpointermove = e => {
    const before = fingers.get(e.pointerId);
    if (!before) return;
    const was = fingers.size === 2 ? apart() : 0;
    fingers.set(e.pointerId, e);
    if (was) zoom *= apart() / was;
    else turn = rotated(rotated(turn, 1, (e.clientX - before.clientX) / 120), 0, (e.clientY - before.clientY) / 120);
    draw();
  };
  canvas.onwheel = e => { e.preventDefault(); zoom *= Math.exp(-e.deltaY / 600); draw(); };
  canvas.onkeydown = e => {
    const step = {ArrowLeft: [1, -0.1], ArrowRight: [1, 0.1], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1]}[e.key];
    if (!step) return;
    e.preventDefault();
    turn = rotated(turn, ...step);
    draw();
  };
  canvas.ondblclick = () => { turn = start(); zoom = 1; draw(); };
  return {draw, along: k => { turn = along(k); draw(); }};
}

// Opens a crystal in a dialog over the page, with a key to its elements.
function openCrystal(title, crystal) {
  const dialog = document.createElement("dialog"), size = "width:min(86vw,68vh,40rem);height:min(86vw,68vh,40rem)";
  dialog.style.cssText = "border:1px solid #8888;border-radius:8px;padding:.8rem;font:15px/1.4 system-ui,sans-serif";
  dialog.innerHTML = `<form method="dialog" style="display:flex;justify-content:space-between;gap:1rem">
    <b></b><button aria-label="close">×</button></form>
    <canvas tabindex="0" style="display:block;touch-action:none;cursor:grab;${size}"></canvas>
    <div style="display:flex;flex-wrap:wrap;gap:.3rem 1rem;align-items:center"></div>
    <small>Drag to turn, wheel or pinch to zoom, double-click to reset.</small>`;
  dialog.querySelector("b").textContent = title;
  const row = dialog.querySelector("div");
  for (const [symbol, [colour]] of Object.entries(crystal.looks))
    row.insertAdjacentHTML("beforeend", `<span><svg width="14" height="14" style="vertical-align:-2px"><circle cx="7"
      cy="7" r="6" fill="${colour}" stroke="#888"/></svg> ${symbol}</span>`);
  document.body.append(dialog);
  dialog.onclose = () => dialog.remove();
  dialog.onclick = e => { if (e.target === dialog) dialog.close(); };
  dialog.showModal();
  const view = showCrystal(dialog.querySelector("canvas"), crystal, true);
  ["a", "b", "c"].forEach((name, k) => {
    row.insertAdjacentHTML("beforeend", `<button title="view along ${name}"><i>${name}</i></button>`);
    row.lastElementChild.onclick = () => view.along(k);
  });
}
