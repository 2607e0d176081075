// Heat-maps: what each patch gives, from the grids of POST /explain, drawn over the picture.

const SIDE = 128; // of the drawn field, whatever the grids' own sides
const FOR = [[214, 0, 111], [255, 92, 57], [255, 214, 82]]; // magenta to yellow: rare in photographs, and told apart
const AGAINST = [[36, 76, 214], [0, 146, 255], [122, 226, 255]]; // from FOR by brightness too
const GAMMA = 0.8; // of opacity: weak patches can be seen too

/**
 * What the map shows as (SIDE * SIDE) numbers from -1 to 1, over the network's crop.
 * Grids of both branches are added as amounts for each unit of area, since their patches differ in size.
 */
export function field(grids) {
  const sum = new Float32Array(SIDE * SIDE);
  for (const grid of grids) {
    const density = grid.length ** 2;
    for (let row = 0; row < SIDE; row++) {
      for (let column = 0; column < SIDE; column++) {
        sum[row * SIDE + column] += density * between(grid, row, column);
      }
    }
  }
  const most = sum.reduce((found, value) => Math.max(found, Math.abs(value)), 0) || 1;
  return sum.map((value) => value / most);
}

/** The grid's value at a place of the field, linearly between the centres of four patches. */
function between(grid, row, column) {
  const [top, bottom, down] = neighbours(grid.length, row);
  const [left, right, along] = neighbours(grid.length, column);
  const above = grid[top][left] * (1 - along) + grid[top][right] * along;
  const below = grid[bottom][left] * (1 - along) + grid[bottom][right] * along;
  return above * (1 - down) + below * down;
}

function neighbours(patches, place) {
  const at = Math.min(Math.max(((place + 0.5) / SIDE) * patches - 0.5, 0), patches - 1);
  const first = Math.floor(at);
  return [first, Math.min(first + 1, patches - 1), at - first];
}

/** Draws `values` over the crop of `picture` (as /explain describes it) on a canvas that covers the whole picture. */
export function draw(canvas, values, picture) {
  const context = canvas.getContext("2d");
  const scale = canvas.width / picture.width;
  const { left, top, width, height } = picture.crop;
  const place = [left * scale, top * scale, width * scale, height * scale];
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.fillStyle = "rgb(0 0 0 / 0.45)"; // what the network does not see
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.clearRect(...place);
  context.imageSmoothingEnabled = true;
  context.imageSmoothingQuality = "high";
  context.drawImage(coloured(values), ...place);
}

function coloured(values) {
  const small = Object.assign(document.createElement("canvas"), { width: SIDE, height: SIDE });
  const context = small.getContext("2d");
  const image = context.createImageData(SIDE, SIDE);
  values.forEach((value, index) => image.data.set(colour(value), 4 * index));
  context.putImageData(image, 0, 0);
  return small;
}

function colour(value) {
  const strength = Math.abs(value);
  const stops = value > 0 ? FOR : AGAINST;
  const at = strength * (stops.length - 1);
  const first = Math.min(Math.floor(at), stops.length - 2);
  const mixed = stops[first].map((channel, index) => channel + (stops[first + 1][index] - channel) * (at - first));
  return [...mixed, 255 * strength ** GAMMA];
}

const ROWS = ["top", "middle", "bottom"];
const COLUMNS = ["left", "centre", "right"];

/** Where the strongest patches for the class are, in words, for people who do not see the map. */
export function strongestPlace(values) {
  const ninths = Array(9).fill(0);
  values.forEach((value, index) => {
    const row = Math.floor((3 * Math.floor(index / SIDE)) / SIDE);
    const column = Math.floor((3 * (index % SIDE)) / SIDE);
    ninths[3 * row + column] += Math.max(value, 0);
  });
  const best = ninths.indexOf(Math.max(...ninths));
  return best === 4 ? "in the centre" : `at the ${ROWS[Math.floor(best / 3)]} ${COLUMNS[best % 3]}`;
}
