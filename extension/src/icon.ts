import { LabIcon } from '@jupyterlab/ui-components';

export const gpuIcon = new LabIcon({
  name: 'nbgpu:icon',
  svgstr: `<svg xmlns="http://www.w3.org/2000/svg" width="16" viewBox="0 0 24 24">
  <g class="jp-icon3" fill="#616161">
    <path d="M6 6h12v12H6z M8 8v8h8V8z" fill-rule="evenodd"/>
    <path d="M9 2h2v3H9z M13 2h2v3h-2z M9 19h2v3H9z M13 19h2v3h-2z M2 9h3v2H2z M2 13h3v2H2z M19 9h3v2h-3z M19 13h3v2h-3z"/>
  </g></svg>`
});
