// Pairings of noise with data, as fmtutorial.couplings. Chapter 4.
//
// A cost is a list of rows, one for each noise point. A pairing says which noise each data point
// gets; only a permutation uses every noise point once.

export function squaredDistances(x0, x1) {
  const rows = [];
  for (let i = 0; i < x0.length; i += 2) {
    const row = new Float64Array(x1.length / 2);
    for (let j = 0; j < row.length; j++) {
      row[j] = (x0[i] - x1[2 * j]) ** 2 + (x0[i + 1] - x1[2 * j + 1]) ** 2;
    }
    rows.push(row);
  }
  return rows;
}

/**
 * The permutation of least cost: for each column its row. Shortest augmenting paths with prices,
 * after Jonker and Volgenant 1987; the cost is square.
 */
export function assignment(cost) {
  const n = cost.length;
  const rowPrice = new Float64Array(n + 1);
  const columnPrice = new Float64Array(n + 1);
  const rowOf = new Int32Array(n + 1).fill(-1); // of each column; column n is a place to start
  for (let row = 0; row < n; row++) {
    const least = new Float64Array(n + 1).fill(Infinity);
    const before = new Int32Array(n + 1).fill(n);
    const done = new Uint8Array(n + 1);
    let column = n;
    rowOf[n] = row;
    while (rowOf[column] !== -1) {
      done[column] = 1;
      const i = rowOf[column];
      let nearest = -1;
      for (let j = 0; j < n; j++) {
        if (done[j]) continue;
        const reduced = cost[i][j] - rowPrice[i] - columnPrice[j];
        if (reduced < least[j]) {
          least[j] = reduced;
          before[j] = column;
        }
        if (nearest < 0 || least[j] < least[nearest]) nearest = j;
      }
      const step = least[nearest];
      for (let j = 0; j <= n; j++) {
        if (done[j]) {
          rowPrice[rowOf[j]] += step;
          columnPrice[j] -= step;
        } else {
          least[j] -= step;
        }
      }
      column = nearest;
    }
    while (column !== n) {
      rowOf[column] = rowOf[before[column]];
      column = before[column];
    }
  }
  return rowOf.slice(0, n);
}

/** The entropic plan in the log domain; columns are exact, rows as far as the iterations came. */
export function sinkhornLog(cost, epsilon, iterations) {
  const rows = cost.length;
  const columns = cost[0].length;
  const left = new Float64Array(rows);
  const right = new Float64Array(columns);
  const scaled = cost.map((row) => row.map((c) => c / epsilon));
  // plain loops: this runs anew whenever the pointer moves
  const logSum = (n, value) => {
    let [largest, sum] = [-Infinity, 0];
    for (let k = 0; k < n; k++) largest = Math.max(largest, value(k));
    for (let k = 0; k < n; k++) sum += Math.exp(value(k) - largest);
    return largest + Math.log(sum);
  };
  for (let k = 0; k < iterations; k++) {
    for (let i = 0; i < rows; i++) {
      left[i] = -Math.log(rows) - logSum(columns, (j) => right[j] - scaled[i][j]);
    }
    for (let j = 0; j < columns; j++) {
      right[j] = -Math.log(columns) - logSum(rows, (i) => left[i] - scaled[i][j]);
    }
  }
  return scaled.map((row, i) => row.map((c, j) => Math.exp(left[i] + right[j] - c)));
}

/** For each data point the noise of its largest entry in the plan: no permutation. */
export function argmax(plan) {
  return Int32Array.from(plan[0], (_, j) => {
    let best = 0;
    for (let i = 1; i < plan.length; i++) if (plan[i][j] > plan[best][j]) best = i;
    return best;
  });
}

/** Pairs [noise, data] drawn by the plan's entries with replacement, from numbers in [0, 1). */
export function drawn(plan, uniforms) {
  const columns = plan[0].length;
  const flat = plan.flatMap((row) => [...row]);
  const total = flat.reduce((sum, value) => sum + value);
  return Array.from(uniforms, (uniform) => {
    let [cell, left] = [0, uniform * total];
    while (cell + 1 < flat.length && (left -= flat[cell]) >= 0) cell++;
    return [Math.floor(cell / columns), cell % columns];
  });
}

/** The share of the plan's mass that sits in rows with too much of it. */
export function wrongRows(plan) {
  const sums = plan.map((row) => row.reduce((sum, value) => sum + value));
  return sums.reduce((wrong, sum) => wrong + Math.abs(sum - 1 / plan.length), 0) / 2;
}

/** The permutation nearest to the plan in the sum of squares, as fmtutorial.couplings.sinkhorn. */
export function nearestPermutation(plan) {
  return assignment(plan.map((row) => row.map((value) => -value)));
}
