// The request of the page as a command and as a program, to copy.

import { address } from "./service.js";

const KEY_VARIABLE = "CROSSVIT_API_KEY"; // the key itself is never shown

/** `text` as one word of a POSIX shell. */
function quoted(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}

/** The command line for curl that classifies. */
export function curl(query, name, keyed) {
  return `curl ${request("classify", query, name, keyed)}`;
}

/** The command line for curl that writes the picture with the heat-map that `query` asks for. */
export function curlMap(query, name, keyed) {
  return `curl -H "Accept: image/png" ${request("explain", query, name, keyed)} -o heat-map.png`;
}

function request(path, query, name, keyed) {
  const file = `file=@"${name.replaceAll("\\", "\\\\").replaceAll('"', '\\"')}"`;
  const header = keyed ? `-H "X-API-Key: $${KEY_VARIABLE}" ` : "";
  return `${header}-F ${quoted(file)} ${quoted(address(path, query).href)}`;
}

/** The program in Python that classifies, which needs no package. */
export function python(query, name, keyed) {
  const headers = keyed ? `, headers={"X-API-Key": os.environ["${KEY_VARIABLE}"]}` : "";
  return [
    keyed ? "import json, os, urllib.request" : "import json, urllib.request",
    "",
    `with open(${JSON.stringify(name)}, "rb") as file:`,
    `    request = urllib.request.Request(${JSON.stringify(address("classify", query).href)}, file.read()${headers})`,
    "with urllib.request.urlopen(request) as response:",
    "    answer = json.load(response)",
    'for found in answer["predictions"]:',
    "    print(f\"{found['score']:.1%}  {found['label']}\")",
  ].join("\n");
}
