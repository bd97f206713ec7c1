// QR codes (ISO/IEC 18004) of bytes, error correction level M, versions 1 to 20.
"use strict";

// Codewords for correction in a block, and blocks, by version.
const qrCorrect = [10, 16, 26, 18, 24, 16, 18, 22, 22, 26, 30, 22, 22, 24, 24, 28, 28, 26, 26, 26];
const qrBlocks = [1, 1, 1, 2, 2, 4, 4, 4, 5, 5, 5, 8, 9, 9, 10, 10, 11, 13, 14, 16];

function qrModules(v) { // data and correction bits that a version has room for
  let n = (16 * v + 128) * v + 64;
  if (v > 1) { const k = Math.floor(v / 7) + 2; n -= (25 * k - 10) * k - 55; if (v > 6) n -= 36; }
  return n;
}

// Multiplication in GF(256) by x^8 + x^4 + x^3 + x^2 + 1.
function qrTimes(a, b) {
  let z = 0;
  for (let i = 7; i >= 0; i--) { z = (z << 1) ^ ((z >> 7) * 0x11d); z ^= ((b >> i) & 1) * a; }
  return z;
}

function qrRemainder(data, n) {
  const divisor = Array(n).fill(0);
  divisor[n - 1] = 1;
  for (let i = 0, root = 1; i < n; i++, root = qrTimes(root, 2))
    for (let j = 0; j < n; j++) divisor[j] = qrTimes(divisor[j], root) ^ (divisor[j + 1] || 0);
  const rest = Array(n).fill(0);
  for (const b of data) {
    const factor = b ^ rest.shift();
    rest.push(0);
    divisor.forEach((d, i) => { rest[i] ^= qrTimes(d, factor); });
  }
  return rest;
}

function qrCodewords(bytes, v) {
  const total = qrModules(v) >> 3, blocks = qrBlocks[v - 1], ecc = qrCorrect[v - 1], room = total - blocks * ecc;
  const bits = [];
  const put = (value, n) => { for (let i = n - 1; i >= 0; i--) bits.push((value >> i) & 1); };
  put(4, 4);
  put(bytes.length, v < 10 ? 8 : 16);
  for (const b of bytes) put(b, 8);
  put(0, Math.min(4, room * 8 - bits.length));
  put(0, (8 - bits.length % 8) % 8);
  for (let pad = 0xec; bits.length < room * 8; pad ^= 0xec ^ 0x11) put(pad, 8);
  const data = [];
  for (let i = 0; i < bits.length; i += 8) data.push(parseInt(bits.slice(i, i + 8).join(""), 2));
  const short = Math.floor(total / blocks) - ecc, longs = total % blocks, parts = [], checks = [];
  for (let i = 0, at = 0; i < blocks; i++) {
    const part = data.slice(at, at += short + (i >= blocks - longs ? 1 : 0));
    parts.push(part);
    checks.push(qrRemainder(part, ecc));
  }
  const out = [];
  for (let i = 0; i <= short; i++) for (const p of parts) if (i < p.length) out.push(p[i]);
  for (let i = 0; i < ecc; i++) for (const c of checks) out.push(c[i]);
  return out;
}

const qrMasks = [(x, y) => (x + y) % 2, (x, y) => y % 2, x => x % 3, (x, y) => (x + y) % 3, (x, y) => (Math.floor(x / 3) + Math.floor(y / 2)) % 2,
  (x, y) => x * y % 2 + x * y % 3, (x, y) => (x * y % 2 + x * y % 3) % 2, (x, y) => ((x + y) % 2 + x * y % 3) % 2];

// How hard a code is to read: runs, squares, patterns like the finder's, balance.
function qrPenalty(m) {
  const n = m.length;
  let p = 0, dark = 0;
  const line = get => {
    let run = 0, last = -1, bits = "";
    for (let i = 0; i < n; i++) {
      const b = get(i) ? 1 : 0;
      bits += b;
      if (b === last) run++; else { if (run > 4) p += run - 2; run = 1; last = b; }
    }
    if (run > 4) p += run - 2;
    for (let i = 0; i + 11 <= n; i++) { const s = bits.slice(i, i + 11); if (s === "10111010000" || s === "00001011101") p += 40; }
  };
  for (let i = 0; i < n; i++) { line(j => m[i][j]); line(j => m[j][i]); }
  for (let y = 0; y < n; y++) for (let x = 0; x < n; x++) {
    if (m[y][x]) dark++;
    if (x && y && m[y][x] === m[y - 1][x] && m[y][x] === m[y][x - 1] && m[y][x] === m[y - 1][x - 1]) p += 3;
  }
  return p + Math.floor(Math.abs(dark * 20 - n * n * 10) / (n * n)) * 10;
}

// qrMatrix returns rows of booleans, true = dark; null if the text is too long.
function qrMatrix(text) {
  const bytes = new TextEncoder().encode(text);
  let v = 1;
  while (v <= 20 && (qrModules(v) >> 3) - qrBlocks[v - 1] * qrCorrect[v - 1] < bytes.length + (v < 10 ? 2 : 3)) v++;
  if (v > 20) return null;
  const n = 17 + 4 * v, m = Array.from({ length: n }, () => Array(n).fill(false)), fixed = Array.from({ length: n }, () => Array(n).fill(false));
  const set = (x, y, dark) => { if (x >= 0 && y >= 0 && x < n && y < n) { m[y][x] = !!dark; fixed[y][x] = true; } };
  for (let i = 0; i < n; i++) { set(6, i, i % 2 === 0); set(i, 6, i % 2 === 0); }
  for (const [cx, cy] of [[3, 3], [n - 4, 3], [3, n - 4]])
    for (let dy = -4; dy <= 4; dy++) for (let dx = -4; dx <= 4; dx++) { const d = Math.max(Math.abs(dx), Math.abs(dy)); set(cx + dx, cy + dy, d !== 2 && d !== 4); }
  if (v > 1) {
    const count = Math.floor(v / 7) + 2, step = Math.floor((v * 8 + count * 3 + 5) / (count * 4 - 4)) * 2, at = [6];
    for (let p = n - 7; at.length < count; p -= step) at.splice(1, 0, p);
    for (const cy of at) for (const cx of at)
      if (!(cx === 6 && cy === 6 || cx === 6 && cy === n - 7 || cx === n - 7 && cy === 6))
        for (let dy = -2; dy <= 2; dy++) for (let dx = -2; dx <= 2; dx++) set(cx + dx, cy + dy, Math.max(Math.abs(dx), Math.abs(dy)) !== 1);
  }
  if (v > 6) {
    let rest = v;
    for (let i = 0; i < 12; i++) rest = (rest << 1) ^ ((rest >> 11) * 0x1f25);
    const bits = v << 12 | rest;
    for (let i = 0; i < 18; i++) { const a = n - 11 + i % 3, b = Math.floor(i / 3); set(a, b, bits >> i & 1); set(b, a, bits >> i & 1); }
  }
  const format = mask => {
    let rest = mask; // level M is 00
    for (let i = 0; i < 10; i++) rest = (rest << 1) ^ ((rest >> 9) * 0x537);
    const bits = (mask << 10 | rest) ^ 0x5412, bit = i => bits >> i & 1;
    for (let i = 0; i < 6; i++) set(8, i, bit(i));
    set(8, 7, bit(6)); set(8, 8, bit(7)); set(7, 8, bit(8));
    for (let i = 9; i < 15; i++) set(14 - i, 8, bit(i));
    for (let i = 0; i < 8; i++) set(n - 1 - i, 8, bit(i));
    for (let i = 8; i < 15; i++) set(8, n - 15 + i, bit(i));
    set(8, n - 8, true);
  };
  format(0);
  const words = qrCodewords(bytes, v);
  for (let right = n - 1, i = 0; right >= 1; right -= 2) {
    if (right === 6) right = 5;
    for (let k = 0; k < n; k++) for (let j = 0; j < 2; j++) {
      const x = right - j, y = (right + 1 & 2) === 0 ? n - 1 - k : k;
      if (!fixed[y][x] && i < words.length * 8) { m[y][x] = (words[i >> 3] >> (7 - (i & 7)) & 1) === 1; i++; }
    }
  }
  const masked = k => m.map((row, y) => row.map((b, x) => fixed[y][x] ? b : b !== (qrMasks[k](x, y) === 0)));
  let best = 0, least = Infinity;
  for (let k = 0; k < 8; k++) { format(k); const p = qrPenalty(masked(k)); if (p < least) { least = p; best = k; } }
  format(best);
  return masked(best);
}

function qrImage(text, title) {
  const rows = qrMatrix(text);
  if (!rows) return null;
  const ns = "http://www.w3.org/2000/svg", svg = document.createElementNS(ns, "svg"), path = document.createElementNS(ns, "path"), n = rows.length;
  svg.setAttribute("viewBox", `-2 -2 ${n + 4} ${n + 4}`);
  svg.setAttribute("class", "qr");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", title);
  svg.setAttribute("shape-rendering", "crispEdges");
  path.setAttribute("d", rows.flatMap((row, y) => row.map((b, x) => b ? `M${x} ${y}h1v1h-1z` : "")).join(""));
  path.setAttribute("fill", "#000");
  svg.append(path);
  return svg;
}
