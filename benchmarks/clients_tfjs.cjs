// Runs a TF.js graph model in Node, as a script: node clients_tfjs.cjs MODEL BACKEND INPUTS HEIGHT WIDTH
//
// MODEL: the folder that tensorflowjs_converter wrote. BACKEND: cpu or wasm. INPUTS: float32 [B, HEIGHT, WIDTH, 3], raw.
// NODE_PATH names the folder of npm's packages. The last line of the output is what the model gives, as JSON.
const fs = require("fs");
const path = require("path");
const tf = require("@tensorflow/tfjs");

// In a browser tf.loadGraphModel takes the address of model.json; Node reads files by hand where tfjs-node is not there.
function load(folder) {
  const { modelTopology, weightsManifest, signature } = JSON.parse(fs.readFileSync(path.join(folder, "model.json")));
  const shards = weightsManifest.flatMap((group) => group.paths).map((name) => fs.readFileSync(path.join(folder, name)));
  const weightData = new Uint8Array(Buffer.concat(shards)).buffer;
  const weightSpecs = weightsManifest.flatMap((group) => group.weights);
  return tf.loadGraphModel({ load: async () => ({ modelTopology, signature, weightSpecs, weightData }) });
}

async function main([folder, backend, file, height, width]) {
  if (backend === "wasm") {
    const wasm = require("@tensorflow/tfjs-backend-wasm");
    wasm.setWasmPaths(path.dirname(require.resolve("@tensorflow/tfjs-backend-wasm")) + path.sep);
  }
  if (!(await tf.setBackend(backend))) throw new Error(`there is no backend ${backend}`);
  const values = new Float32Array(new Uint8Array(fs.readFileSync(file)).buffer);
  const model = await load(folder);
  const outputs = model.predict(tf.tensor(values, [values.length / (height * width * 3), +height, +width, 3]));
  console.log(JSON.stringify(await outputs.array()));
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error.message);
  process.exit(1);
});
