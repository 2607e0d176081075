// Run by node from a folder that has the packages: what the operators' own schemas say of the manifests on standard input.
// Prints JSON: for each its kind and the complaint, which is empty if there is none.
import { readFileSync } from "node:fs";

const MODULES = {
  ScaledObject: "@kubernetes-models/keda/keda.sh/v1alpha1",
  ServiceMonitor: "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1",
  PodMonitor: "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1",
  PrometheusRule: "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1",
};

async function complaint(manifest) {
  const models = await import(MODULES[manifest.kind]);
  const Model = models[manifest.kind] ?? models.default[manifest.kind];
  try {
    new Model(manifest).validate();
    return "";
  } catch (error) {
    return error.message;
  }
}

const found = [];
for (const manifest of JSON.parse(readFileSync(0))) found.push([manifest.kind, await complaint(manifest)]);
console.log(JSON.stringify(found));
