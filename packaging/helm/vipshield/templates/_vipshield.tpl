{{/* What every object has. There is one vipshield on a node, and so one name. */}}
{{- define "vipshield.metadata" -}}
name: vipshield
namespace: {{ .Release.Namespace }}
labels:
  {{- include "vipshield.labels" . | nindent 2 }}
{{- end }}

{{/* By which its pods are found. */}}
{{- define "vipshield.labels" -}}
app.kubernetes.io/name: vipshield
{{- end }}

{{/* What cannot work is refused in words. */}}
{{- define "vipshield.refuse" -}}
{{- if not .Values.hostNetwork }}
{{- fail "hostNetwork has to be true: the NIC and keepalived's sockets are the node's" }}
{{- end }}
{{- if not .Values.hostPID }}
{{- fail "hostPID has to be true: keepalived is looked for among the node's processes. Where that may not be, `vipshield manifest sidecar` puts vipshield into keepalived's own pod" }}
{{- end }}
{{- if and .Values.scrapeConfig.enabled (not .Values.metrics.scrape) }}
{{- fail "scrapeConfig.enabled needs metrics.scrape: true: on loopback nobody finds the metrics" }}
{{- end }}
{{- end }}
