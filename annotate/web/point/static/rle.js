// Masks: COCO compressed RLE, column by column, as the items hold them.

/**
 * Decode the counts of a mask: lengths of runs, the first of background.
 * @param {string} counts @returns {number[]}
 */
export function runLengths(counts) {
  const lengths = [];
  for (let at = 0; at < counts.length;) {
    let value = 0, shift = 0, more = true;
    while (more) {
      const code = counts.charCodeAt(at++) - 48;
      value |= (code & 31) << shift;
      more = (code & 32) !== 0;
      shift += 5;
      if (!more && code & 16) value |= -1 << shift;
    }
    if (lengths.length > 2) value += lengths[lengths.length - 2];
    lengths.push(value);
  }
  return lengths;
}

/**
 * Write `value` into the pixels of a mask.
 * @param {{size: number[], counts: string}} mask @param {Uint16Array} map row by row
 * @param {number} value
 */
export function paint(mask, map, value) {
  const [height, width] = mask.size;
  let position = 0, inside = false;
  for (const length of runLengths(mask.counts)) {
    if (inside) {
      for (let n = position; n < position + length; n++) {
        map[(n % height) * width + Math.floor(n / height)] = value;
      }
    }
    position += length;
    inside = !inside;
  }
}

/**
 * Draw an index map (0 is no object) as colours with a light and a dark outline.
 * @param {Uint16Array} map @param {number} width @param {number} height
 * @param {number[][]} colours of the values, from 1: red, green, blue
 * @param {"fill" | "outline"} style @returns {ImageData}
 */
export function drawMap(map, width, height, colours, style) {
  const image = new ImageData(width, height), pixels = new Uint32Array(image.data.buffer);
  const packed = (rgb, alpha) => ((alpha << 24) | (rgb[2] << 16) | (rgb[1] << 8) | rgb[0]) >>> 0;
  const fills = [0, ...colours.map((rgb) => (style === "fill" ? packed(rgb, 105) : 0))];
  const edges = [0, ...colours.map((rgb) => packed(rgb, 255))];
  const dark = packed([0, 0, 0], 200);
  for (let y = 0, n = 0; y < height; y++) {
    for (let x = 0; x < width; x++, n++) {
      const value = map[n];
      const left = x > 0 ? map[n - 1] : value, right = x < width - 1 ? map[n + 1] : value;
      const up = y > 0 ? map[n - width] : value, down = y < height - 1 ? map[n + width] : value;
      if (value) {
        const inner = left === value && right === value && up === value && down === value;
        pixels[n] = inner ? fills[value] : edges[value];
      } else if (left || right || up || down) {
        pixels[n] = dark;
      }
    }
  }
  return image;
}
